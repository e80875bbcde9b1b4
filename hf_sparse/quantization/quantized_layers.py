"""The layers of a quantized model as integers and scales, from which exports and files are made."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.activations import parameters
from hf_sparse.quantization.convert import FakeQuantLayer
from hf_sparse.quantization.embeddings import FakeQuantEmbedding
from hf_sparse.quantization.weights import WeightScheme


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer: int8 `codes` (out, in), and float32 `scales` of the shape that `WeightScheme.scales` gives.

    `activations` is as in the recipe. `input_scale` (float32) and `input_zero_point` (int32) are scalars, the
    uint8 grid of the input; they are None unless activations are uint8_per_tensor. `transposed` layers store
    their weight as (in, out). The codes of an `embedding` are (rows, width).
    """

    codes: Tensor
    scales: Tensor
    weights: WeightScheme
    activations: str
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    transposed: bool
    embedding: bool = False

    def weight(self) -> Tensor:
        """Return the float32 weight (out, in), codes times scales."""
        return self.weights.restore(self.codes, self.scales)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the quantized layers of a model by the names of their modules.

    Raises `ValueError` naming a layer whose input was never observed, or whose weight or range is not finite.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantLayer)}
    unseen = [name for name, module in modules.items() if not module.quantization.observed]
    if unseen:
        raise ValueError(
            f"no data has reached {len(unseen)} of {len(modules)} quantized layers, such as {unseen[0]}, so "
            "the range of their inputs is unknown; train or calibrate with data that uses them, or exclude "
            "them"
        )
    return {name: _layer(name, module) for name, module in modules.items()}


def require_finite_tensors(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raise `ValueError` naming the first of some tensors, (name, tensor), that holds NaN or infinity."""
    broken = [
        name
        for name, value in named
        if value.is_floating_point() and not value.is_meta and not _is_finite(value)
    ]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise ValueError(
            f"{broken[0]}{more} is not finite: training has diverged; take an earlier checkpoint"
        )


def _is_finite(value: Tensor) -> bool:
    # A sum takes neither memory nor a second pass; that of large finite numbers may be infinite.
    return bool(torch.isfinite(value.detach().sum()) or torch.isfinite(value).all())


def _layer(name: str, module: FakeQuantLayer) -> QuantizedLayer:
    part, transposed = module.quantization, isinstance(module, Conv1D)
    embedding = isinstance(module, FakeQuantEmbedding)
    weight = (module.weight.t() if transposed else module.weight).detach()
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weight of {name} is not finite: training has diverged; take an earlier one")
    scales = part.weights.scales(weight)
    scale = zero_point = None
    if part.activations == "uint8_per_tensor":
        scale, zero_point = parameters(module.input_low, module.input_high)
        if not torch.isfinite(scale):
            raise ValueError(f"the range of the input of {name} is not finite; calibrate it with other data")
    return QuantizedLayer(
        part.weights.codes(weight, scales),
        scales,
        part.weights,
        part.activations,
        scale,
        zero_point,
        transposed,
        embedding,
    )
