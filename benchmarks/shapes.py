"""One pre-trained BERT as a RoBERTa, DistilBERT and others: same weights and vocabulary, other classes."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from hf_sparse.architectures import BERT, DISTILBERT

# What DistilBERT calls the parts of BERT.
_DISTILBERT = {
    f"{BERT.encoder}.{BERT.layers}": f"{DISTILBERT.encoder}.{DISTILBERT.layers}",
    **dict(zip(BERT.linears, DISTILBERT.linears, strict=True)),
    **dict(zip(BERT.norms, DISTILBERT.norms, strict=True)),
}


def as_bert(bert: BertModel) -> PreTrainedModel:
    """Return the model itself."""
    return bert


def as_roberta(bert: BertModel) -> PreTrainedModel:
    """Return a RoBERTa: its positions begin behind the number of the padding token."""
    config = bert.config
    offset = config.pad_token_id + 1
    shape = {key: getattr(config, key) for key in _SIZES}
    shape["max_position_embeddings"] = config.max_position_embeddings + offset
    model = RobertaModel(RobertaConfig(**shape, type_vocab_size=config.type_vocab_size))
    state = bert.state_dict()
    key = "embeddings.position_embeddings.weight"
    state[key] = torch.cat([state[key][:offset], state[key]])
    return _loaded(model, state)


def as_distilbert(bert: BertModel) -> PreTrainedModel:
    """Return a DistilBERT: it lacks token types, so their embedding is added to that of positions."""
    config = bert.config
    model = DistilBertModel(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            pad_token_id=config.pad_token_id,
        )
    )
    state = {}
    for key, value in bert.state_dict().items():
        for ours, theirs in _DISTILBERT.items():
            if f"{ours}." in key:
                key = key.replace(ours, theirs)
        state[key] = value
    state["embeddings.position_embeddings.weight"] = (
        state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    )
    return _loaded(model, state)


SHAPES = {"BERT": as_bert, "RoBERTa": as_roberta, "DistilBERT": as_distilbert}
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_eps",
    "pad_token_id",
)


def write_shape(encoder: str, shape: str, directory: Path) -> None:
    """Write a BERT in another shape, with its tokenizer; raise `RuntimeError` if it is not the same model."""
    if (directory / "config.json").exists():
        return
    bert, tokenizer = BertModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    model = SHAPES[shape](bert).eval()
    batch = tokenizer(["a gripping film", "not one of its jokes lands"], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        error = model(**batch).last_hidden_state - bert(**batch).last_hidden_state
    if (worst := (error * batch["attention_mask"][..., None]).abs().max()) > 1e-3:
        raise RuntimeError(f"as a {shape} the encoder computes other outputs: {worst:.2g} apart")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _loaded(model: PreTrainedModel, state: dict[str, Tensor]) -> PreTrainedModel:
    known = model.state_dict()
    missing = known.keys() - state.keys()
    if any(
        "pooler" not in key and "position_ids" not in key and "token_type_ids" not in key for key in missing
    ):
        raise RuntimeError(f"the encoder lacks {sorted(missing)[:3]}")
    model.load_state_dict({key: value for key, value in state.items() if key in known}, strict=False)
    return model
