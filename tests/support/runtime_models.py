"""Tiny models of every family that can be fused, pruned and quantized, and batches for them."""

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.targets import find_targets

SIZES = {"vocab_size": 90, "max_position_embeddings": 80}
LAYERS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 52,
}
CONFIGS = {
    "bert": lambda **more: BertConfig(**SIZES, **LAYERS, **more),
    "roberta": lambda **more: RobertaConfig(**SIZES, **LAYERS, pad_token_id=1, **more),
    "electra": lambda **more: ElectraConfig(**SIZES, **LAYERS, embedding_size=20, **more),
    "distilbert": lambda **more: DistilBertConfig(
        **SIZES, dim=32, n_layers=2, n_heads=4, hidden_dim=52, **more
    ),
}
SPECIAL = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "mask_token_id": 3,
}
# Other families than BERT's, with what is special about them. Texts have up to 600 tokens.
FAMILIES = {
    "albert": {"embedding_size": 20, "num_hidden_layers": 3, "num_hidden_groups": 2},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    # Several classes of it classify images.
    "deit": {"image_size": 24, "patch_size": 4, "architectures": ["DeiTForImageClassification"]},
    "eurobert": {"num_key_value_heads": 2},
    "gte": {},
    "jina_embeddings_v3": {},
    "modernbert": {"local_attention": 10, "num_hidden_layers": 4},
    "mpnet": {},
    "nomic_bert": {},
    "vit": {"image_size": 24, "patch_size": 4},
}
IMAGES = ("deit", "vit")
ALL_HEADS = ("sequence", "token", "answer")
HEADS_OF = {
    "albert": ALL_HEADS,
    "deberta-v2": ALL_HEADS,
    "deit": ("image",),
    "eurobert": ALL_HEADS[:2],
    "gte": ALL_HEADS[:2],
    "jina_embeddings_v3": ALL_HEADS,
    "modernbert": ALL_HEADS,
    "mpnet": ALL_HEADS,
    "nomic_bert": ALL_HEADS[:2],
    "vit": ("image",),
}
HEADS = {
    "base": AutoModel,
    "image": AutoModelForImageClassification,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "answer": AutoModelForQuestionAnswering,
}


def config_of(name: str, **more: object) -> PreTrainedConfig:
    if name in CONFIGS:
        return CONFIGS[name](**more)
    sizes = {**SIZES, "max_position_embeddings": 600, **LAYERS, **SPECIAL}
    return AutoConfig.for_model(name, **{**sizes, **FAMILIES[name], **more})


def inputs_of(name: str, rows: int = 3, length: int = 20, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch for a model of a family; in a text of a batch, tokens in its middle are masked, too."""
    if name in IMAGES:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values": torch.randn(rows, 3, 24, 24, generator=generator)}
    inputs = batch(rows, length, seed)
    inputs["attention_mask"][-1, length // 3 : length // 2] = 0
    return inputs


def build(name: str = "bert", head: str = "sequence", **more: object) -> PreTrainedModel:
    torch.manual_seed(7)
    model = HEADS[head].from_config(config_of(name, **more)).eval()
    for target in find_targets(model):
        with torch.no_grad():
            # Livelier than fresh weights, so that mistakes show in the outputs.
            target.weight.mul_(6)
    return model


def batch(rows: int = 3, length: int = 20, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(1, rows):
        mask[row, length - 3 * row :] = 0
    return {
        "input_ids": torch.randint(4, 90, (rows, length), generator=generator),
        "attention_mask": mask,
    }


def prune(model: PreTrainedModel, sparsity: float, tall: int = 4, wide: int = 4) -> None:
    generator = torch.Generator().manual_seed(3)
    for target in find_targets(model):
        rows, columns = target.weight.shape
        kept = torch.rand(rows // tall, columns // wide, generator=generator) >= sparsity
        with torch.no_grad():
            target.weight.mul_(kept.repeat_interleave(tall, 0).repeat_interleave(wide, 1))


def quantized(
    name: str = "bert", head: str = "sequence", sparsity: float = 0.5, **more: object
) -> PreTrainedModel:
    model = build(name, head)
    prune(model, sparsity)
    calibrate(model, [inputs_of(name, seed=seed) for seed in range(3)], **more)
    return model


def outputs(model, inputs) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {name: value for name, value in model(**inputs).items() if isinstance(value, torch.Tensor)}
