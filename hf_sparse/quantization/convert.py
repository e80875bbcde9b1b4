"""Turn Linears and embeddings into fake-quantized ones and back, in place; parameters stay the same."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.architectures import GATED_INPUTS, PROJECTIONS
from hf_sparse.quantization.embeddings import FakeQuantEmbedding
from hf_sparse.quantization.fake_layers import (
    FakeQuantConv1D,
    FakeQuantLinear,
    LayerQuantization,
    Phase,
)
from hf_sparse.quantization.shared_inputs import Readers
from hf_sparse.quantization.weights import WeightScheme, is_short
from hf_sparse.targets import Target

QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FakeQuantLinear,
    Conv1D: FakeQuantConv1D,
    nn.Embedding: FakeQuantEmbedding,
}
FakeQuantLayer = FakeQuantLinear | FakeQuantConv1D | FakeQuantEmbedding
# The attributes of a fake-quantized module: how it is quantized, and the range of its input.
_PART, _LOW, _HIGH = "quantization", "input_low", "input_high"


def is_quantized(module: object) -> TypeGuard[FakeQuantLayer]:
    """Return whether a module is one of the classes that `attach` makes."""
    return isinstance(module, FakeQuantLayer)


def as_quantized(module: nn.Module) -> FakeQuantLayer:
    """Return a module that `attach` has quantized, typed as such; raise `TypeError` for others."""
    if not is_quantized(module):
        raise TypeError(f"{type(module).__name__} is not quantized")
    return module


def attach(
    targets: Iterable[Target], weights: WeightScheme, activations: str, observer: str, phase: Phase
) -> dict[str, LayerQuantization]:
    """Quantize the modules of targets, by changing their class; return the settings of each layer by name.

    Modules that are quantized already start again. Embeddings take activations `none`, since they read
    indices. Ranges of inputs are non-persistent buffers, so that checkpoints stay as they are. Raises
    `ValueError` for weights that the scheme cannot cover, and for other classes of modules.
    """
    targets = list(targets)
    for target in targets:
        _detach(target.module)
        if type(target.module) not in QUANTIZED:
            raise ValueError(
                f"{target.name} belongs to a {type(target.module).__name__}, which cannot be quantized; "
                "exclude it"
            )
        weights.check(target.name, target.shape)
    inputs = [_input_of(target) for target in targets]
    readers = {source: Readers(count) for source, count in Counter(inputs).items() if source and count > 1}
    layers = {}
    for target, source in zip(targets, inputs, strict=True):
        module, device = target.module, target.parameter.device
        if device.type == "meta":
            # A buffer outside the state dict gets its value here alone, wherever weights come from.
            device = torch.device("cpu")
        for name, nothing in ((_LOW, torch.inf), (_HIGH, -torch.inf)):
            module.register_buffer(name, torch.tensor(nothing, device=device), persistent=False)
        module.__class__ = QUANTIZED[type(module)]
        # A model of 16 bits keeps its steps when it is cast to more.
        own = replace(weights, exact=weights.exact or is_short(target.weight.dtype))
        part = LayerQuantization(own, activations, observer, phase, readers.get(source) if source else None)
        setattr(module, _PART, part)
        layers[target.name.removesuffix(".weight")] = part
    return layers


def detach(model: nn.Module) -> None:
    """Give every quantized module its own class back."""
    for module in model.modules():
        _detach(module)


def _detach(module: nn.Module) -> None:
    original = {quantized: kind for kind, quantized in QUANTIZED.items()}
    if type(module) in original:
        module.__class__ = original[type(module)]
        for name in (_PART, _LOW, _HIGH):
            delattr(module, name)


_PROJECTIONS = {name for names in PROJECTIONS for name in names}


def _input_of(target: Target) -> tuple[str, int, bool] | None:
    """Return a key that modules share which probably read the same input; None for all other modules."""
    parent, _, name = target.name.removesuffix(".weight").rpartition(".")
    attention = name in _PROJECTIONS
    return (parent, target.shape[1], attention) if attention or name in GATED_INPUTS else None
