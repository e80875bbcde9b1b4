"""Every architecture through the kernels: quantized layers become theirs, the answers stay."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.runtime import optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.linear import RuntimeLinear
from tests.support.zoo import ARCHITECTURES, calibrated

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


def answer(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("name", [entry.name for entry in ARCHITECTURES])
def test_the_kernels_answer_as_the_quantized_model(name: str) -> None:
    model, batch = calibrated(name)
    exact, layers = answer(model, batch), quantized_layers(model)
    optimized = optimize(copy.deepcopy(model))
    replaced = {name for name, part in optimized.named_modules() if isinstance(part, RuntimeLinear)}
    # Where layers share their weights, several names stand for one module.
    assert replaced == {name for name, layer in layers.items() if not layer.embedding} and replaced
    found = answer(optimized, batch)
    # A code more or less where a value lies between two.
    assert (found - exact).abs().mean() < 0.02 * exact.abs().mean() + 1e-4
