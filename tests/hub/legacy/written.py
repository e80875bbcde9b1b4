"""Checkpoints in the layouts that libraries of the past wrote, and BERT computed by hand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import BertForSequenceClassification, PreTrainedModel

from tests.support.tiny import SIZES, bert

INPUTS = {
    "input_ids": torch.arange(5, 29).reshape(2, 12),
    "attention_mask": torch.tensor([[1] * 12, [1] * 9 + [0] * 3]),
}
# What is pruned: the six matrices of both layers, 32 x 32 or 64 x 32.
PRUNED = [
    f"bert.encoder.layer.{layer}.{name}.weight"
    for layer in range(2)
    for name in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
]


def wide(seed: int = 0, **config: Any) -> BertForSequenceClassification:
    """Return a model with four heads of eight, and weights so large that each affects the logits."""
    return bert(seed, **({"num_attention_heads": 4, "initializer_range": 0.3} | config)).eval()


def tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def config_of(model: PreTrainedModel, **changes: Any) -> dict[str, Any]:
    """As transformers 4 wrote it."""
    kept = {key: value for key, value in model.config.to_dict().items() if key != "dtype"}
    named = {
        "architectures": [type(model).__name__],
        "torch_dtype": "float32",
        "transformers_version": "4.9.1",
    }
    return kept | named | {"pruned_heads": {}, "position_embedding_type": "absolute"} | changes


def write(
    directory: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: str = "pytorch_model.bin"
) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if file.endswith(".bin"):
        torch.save(dict(tensors), directory / file)
    else:
        save_file({name: value.contiguous() for name, value in tensors.items()}, directory / file)
    return directory


def keep(shape: torch.Size, sparsity: float, block: tuple[int, int] = (1, 1), seed: int = 1) -> Tensor:
    """Return a mask of blocks, floats, with exactly this share of zeros."""
    rows, columns = shape[0] // block[0], shape[1] // block[1]
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    kept = (order >= sparsity * rows * columns).float().reshape(rows, columns)
    return kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def logits(
    tensors: Mapping[str, Tensor],
    head_size: int = SIZES["hidden_size"] // 4,
    activation: Callable[[Tensor], Tensor] = functional.gelu,
    normalized: bool = True,
) -> Tensor:
    """Return the logits of a BERT classifier, from matrices of whatever sizes they have."""

    def linear(name: str, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, inputs: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"]
        if not normalized:
            return inputs * weight + bias
        return functional.layer_norm(inputs, weight.shape, weight, bias, 1e-12)

    def heads(name: str, inputs: Tensor) -> Tensor:
        return linear(name, inputs).unflatten(-1, (-1, head_size)).transpose(1, 2)

    ids = INPUTS["input_ids"]
    table = "bert.embeddings.{}_embeddings.weight"
    states = tensors[table.format("word")][ids] + tensors[table.format("position")][: ids.shape[1]]
    states = norm("bert.embeddings", states + tensors[table.format("token_type")][0])
    hidden = (1 - INPUTS["attention_mask"])[:, None, None] * -1e9
    for layer in range(SIZES["num_hidden_layers"]):
        own = f"bert.encoder.layer.{layer}"
        query, key, value = (
            heads(f"{own}.attention.self.{name}", states) for name in ("query", "key", "value")
        )
        weights = (query @ key.transpose(2, 3) / head_size**0.5 + hidden).softmax(-1)
        context = (weights @ value).transpose(1, 2).flatten(2)
        states = norm(f"{own}.attention.output", linear(f"{own}.attention.output.dense", context) + states)
        inner = activation(linear(f"{own}.intermediate.dense", states))
        states = norm(f"{own}.output", linear(f"{own}.output.dense", inner) + states)
    return linear("classifier", linear("bert.pooler.dense", states[:, 0]).tanh())


def assert_gives(model: torch.nn.Module, expected: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**INPUTS).logits, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.05
