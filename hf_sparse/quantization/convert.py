"""Turning a model's Linears and embeddings into quantized ones and back, in place, parameters untouched."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.architectures import GATED_INPUTS, PROJECTIONS
from hf_sparse.quantization.embeddings import FakeQuantEmbedding
from hf_sparse.quantization.linear import (
    FakeQuantConv1D,
    FakeQuantLinear,
    LayerQuantization,
    Phase,
)
from hf_sparse.quantization.sharing import Readers
from hf_sparse.quantization.weights import WeightScheme, is_short
from hf_sparse.targets import Target

QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FakeQuantLinear,
    Conv1D: FakeQuantConv1D,
    nn.Embedding: FakeQuantEmbedding,
}
_LOW, _HIGH = "input_low", "input_high"


def attach(
    targets: Iterable[Target], weights: WeightScheme, activations: str, observer: str, phase: Phase
) -> dict[str, LayerQuantization]:
    """Quantize the modules of targets, by changing their class; return each layer's part by its name.

    What is quantized already starts anew. Embeddings take activations `none`: they read no numbers.

    The ranges of inputs are buffers that no state dict holds, so that checkpoints stay as they are. Raises
    `ValueError` where a weight cannot be covered or a module is of a kind that is not known.
    """
    targets = list(targets)
    for target in targets:
        _detach(target.module)
        if type(target.module) not in QUANTIZED:
            raise ValueError(
                f"{target.name} belongs to a {type(target.module).__name__}, which cannot be quantized; "
                "exclude it"
            )
        weights.check(target.name, tuple(target.weight.shape))
    families = Counter(filter(None, map(_family, targets)))
    readers = {family: Readers(count) for family, count in families.items() if count > 1}
    layers = {}
    for target in targets:
        module, device = target.module, target.parameter.device
        for name, nothing in ((_LOW, torch.inf), (_HIGH, -torch.inf)):
            module.register_buffer(name, torch.tensor(nothing, device=device), persistent=False)
        module.__class__ = QUANTIZED[type(module)]
        # A model of 16 bits that is cast to more goes on with the same steps.
        own = replace(weights, exact=weights.exact or is_short(target.weight.dtype))
        module.quantization = LayerQuantization(
            own, activations, observer, phase, readers.get(_family(target))
        )
        layers[target.name.removesuffix(".weight")] = module.quantization
    return layers


def detach(model: nn.Module) -> None:
    """Give every quantized module its own class back."""
    for module in model.modules():
        _detach(module)


def _detach(module: nn.Module) -> None:
    original = {quantized: kind for kind, quantized in QUANTIZED.items()}
    if type(module) in original:
        module.__class__ = original[type(module)]
        del module.quantization
        for name in (_LOW, _HIGH):
            delattr(module, name)


_PROJECTIONS = {name for names in PROJECTIONS for name in names}


def _family(target: Target) -> tuple[str, int, bool] | None:
    """Name the modules side by side that probably read one input; those that do not just find another one."""
    parent, _, name = target.name.removesuffix(".weight").rpartition(".")
    attention = name in _PROJECTIONS
    return (parent, target.weight.shape[1], attention) if attention or name in GATED_INPUTS else None
