"""Tiny sparse models with adapters whose update is not zero."""

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hf_sparse import SparseLoraConfig, find_targets, prune
from tests.support.tiny import SIZES, bert

MODULES = ["query", "value", "intermediate.dense"]
# Of logits, in float32: what is added before a product is not quite what is added after it.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
# Weights large enough for logits of about 1.
_WIDE = {"initializer_range": 0.3}


def sparse_bert(seed: int = 0, sparsity: float = 0.8, **config: Any) -> PreTrainedModel:
    model = bert(seed, **(_WIDE | config))
    prune(model, sparsity)
    return model.eval()


def sparse_gpt2(seed: int = 0) -> PreTrainedModel:
    """Return a model whose weights are stored as (in, out)."""
    torch.manual_seed(seed)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": SIZES["vocab_size"]}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **_WIDE, bos_token_id=0, eos_token_id=1))
    prune(model, 0.7)
    return model.eval()


def masked(**changes: Any) -> SparseLoraConfig:
    return SparseLoraConfig(**({"r": 4, "target_modules": MODULES, "task_type": "SEQ_CLS"} | changes))


def plain(**changes: Any) -> LoraConfig:
    return LoraConfig(**({"r": 4, "target_modules": MODULES, "task_type": "SEQ_CLS"} | changes))


def adapted(model: PreTrainedModel, config: LoraConfig, seed: int = 3) -> PeftModel:
    """Put an adapter on a model with an update large enough to change the outputs."""
    model = get_peft_model(model, config).eval()
    fill(model, "default", seed)
    return model


def fill(model: nn.Module, adapter: str, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".lora_B.{adapter}." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def words(rows: int = 3, seed: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(2, SIZES["vocab_size"], (rows, 9), generator=generator)}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**words()).logits


def zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return masks of the zeros in the weights of a model without adapters, by the names of its targets."""
    return {target.name: target.weight.detach() == 0 for target in find_targets(model)}


def same_zeros(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = zeros(one), zeros(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
