"""Students and teachers with comparable inner states: eager attention, no dropout, wide weights."""

from collections import ChainMap
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from hf_sparse.distillation.batch_counts import count
from hf_sparse.distillation.features import TERMS
from hf_sparse.distillation.features.term import FeatureTerm
from hf_sparse.distillation.losses import LossTerm
from hf_sparse.distillation.teacher import freeze

KINDS = ("bert", "distilbert", "llama", "vit")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
QUIET = {
    "attn_implementation": "eager",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "image_size": 8,
    "patch_size": 4,
}
ARCHITECTURES = {
    "bert": (BertForSequenceClassification, BertConfig),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig),
    "llama": (LlamaForCausalLM, LlamaConfig),
    "vit": (ViTForImageClassification, ViTConfig),
}


def make(kind: str, seed: int = 0, **config: Any) -> PreTrainedModel:
    architecture, settings = ARCHITECTURES[kind]
    sizes = SIZES | config
    if kind == "distilbert":
        sizes |= {"hidden_dim": sizes.pop("intermediate_size")}
    torch.manual_seed(seed)
    return architecture(settings(**(QUIET | sizes)))


def encoder_decoder(kind: str, seed: int, layers: tuple[int, int], width: int = 32) -> PreTrainedModel:
    """Return a T5 or BART with these numbers of encoder and decoder layers."""
    torch.manual_seed(seed)
    encoder, decoder = layers
    if kind == "t5":
        sizes = {"num_layers": encoder, "num_decoder_layers": decoder, "d_kv": 16, "d_ff": 64, "num_heads": 2}
        config = T5Config(
            vocab_size=100, d_model=width, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, **sizes
        )
        return T5ForConditionalGeneration(config)
    sizes = {f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")}
    sizes |= {f"{stack}_ffn_dim": 64 for stack in ("encoder", "decoder")}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(
        vocab_size=100,
        d_model=width,
        encoder_layers=encoder,
        decoder_layers=decoder,
        dropout=0.0,
        max_position_embeddings=16,
        **sizes,
        **special,
    )
    return BartForConditionalGeneration(config)


def batch(kind: str, rows: int = 6, length: int = 8) -> dict[str, Tensor]:
    """Return texts of varying length with padding at the end, or images."""
    generator = torch.Generator().manual_seed(0)
    if kind == "vit":
        return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator)}
    ids = torch.randint(1, 100, (rows, length), generator=generator)
    mask = (torch.arange(length) < length - torch.arange(rows)[:, None] % 4 * 2).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


_SETTINGS = {
    "layers": "uniform",
    "heads": None,
    "normalize": False,
    "layer_weights": {},
    "log_layers": False,
}


def term_of(name: str, student: PreTrainedModel, teacher: PreTrainedModel, **settings: Any) -> FeatureTerm:
    return TERMS[name](SimpleNamespace(**(_SETTINGS | settings)), student, teacher)


def states(
    term: FeatureTerm, student: PreTrainedModel, teacher: PreTrainedModel, inputs: dict[str, Tensor]
) -> tuple[ChainMap, ChainMap]:
    """Return the states that a term compares; those of the student have gradients."""
    with term.watch(student, "student") as ours:
        outputs = student(**inputs, **term.forward_options)
    with torch.no_grad(), term.watch(freeze(teacher), "teacher") as theirs:
        wanted = teacher(**inputs, **term.forward_options)
    return ChainMap(outputs, ours), ChainMap(wanted, theirs)


def compare(
    name: str, student: PreTrainedModel, teacher: PreTrainedModel, inputs: dict[str, Tensor], **settings: Any
) -> list[LossTerm]:
    term = term_of(name, student, teacher, **settings)
    ours, theirs = states(term, student, teacher, inputs)
    if term.unprepared:
        term.prepare([(theirs, inputs)], Accelerator(cpu=True))
    return term(ours, theirs, inputs)


def mean(terms: list[LossTerm], inputs: dict[str, Tensor]) -> Tensor:
    counts = count(inputs, False)
    return sum(term.total / counts.of(term.unit) for term in terms)


def positions(inputs: dict[str, Tensor], value: Tensor) -> Tensor:
    """Return which of the (batch, length) positions of a hidden state are not padding."""
    if "attention_mask" in inputs:
        return inputs["attention_mask"].bool()
    return torch.ones(value.shape[:2], dtype=torch.bool)
