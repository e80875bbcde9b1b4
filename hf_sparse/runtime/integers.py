"""What one layer computes with, as integers: codes of its weight, the grid of its input."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.layers import QuantizedLayer, quantized_layers
from hf_sparse.quantization.weights import WeightScheme

# Which grid a layer's input has: one that is fixed, or one for each token from what it holds.
FIXED, SYMMETRIC, RANGE = 0, 1, 2
_DYNAMIC = {"uint8_per_tensor": FIXED, "int8_per_token": SYMMETRIC, "none": RANGE}
_ROUNDED = WeightScheme()


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer of int8 `codes` (out, in), the `steps` between them, (out,) float32, and a `bias` or none.

    The input is rounded to 256 codes over [0, 255]: x is (code - zero) * step. `dynamic` says where these two
    come from: FIXED are `input_step` and `input_zero`; SYMMETRIC, each token's largest value is 127 steps
    from a zero of 128; RANGE, each token's values, with 0, span 255 steps.
    """

    codes: Tensor
    steps: Tensor
    bias: Tensor | None
    dynamic: int
    input_step: float = 1.0
    input_zero: int = 0

    @property
    def multipliers(self) -> Tensor:
        """The step of a sum of products, (out,): times the token's step where that is dynamic."""
        if self.dynamic != FIXED:
            return self.steps
        return self.steps * torch.tensor(self.input_step, dtype=torch.float32, device="cpu")

    @property
    def sparsity(self) -> float:
        """The share of codes that are zero."""
        return 1 - self.codes.count_nonzero().item() / self.codes.numel()


def integer_layer(name: str, module: nn.Module, layer: QuantizedLayer | None) -> IntegerLayer:
    """Return a module's layer as integers: as it was quantized, or rounded now if it is plain.

    A plain weight is rounded to int8 per output, and its input per token. Raises `ValueError` where that can
    not be: scales of groups of inputs, weights that are not finite, modules that do more than a Linear.
    """
    if layer is None and type(module) not in (nn.Linear, Conv1D):
        raise ValueError(
            f"{name} is a {type(module).__module__}.{type(module).__name__}, of which nobody knows what else "
            "it does; merge adapters into the model first"
        )
    bias = module.bias
    if layer is None:
        weight = module.weight.detach()
        weight = (weight.t() if isinstance(module, Conv1D) else weight).float().contiguous()
        if not torch.isfinite(weight).all():
            raise ValueError(f"the weight of {name} is not finite: take an earlier checkpoint")
        scales = _ROUNDED.scales(weight)
        return IntegerLayer(_ROUNDED.codes(weight, scales), scales.reshape(-1), bias, RANGE)
    return from_codes(name, layer, bias)


def from_codes(name: str, layer: QuantizedLayer, bias: Tensor | None) -> IntegerLayer:
    """Return a quantized layer as integers; raise `ValueError` for scales of groups of inputs."""
    rows, _ = layer.codes.shape
    if layer.weights.granularity == "group":
        raise ValueError(
            f"{name} is {layer.weights}, with a scale for every {layer.weights.group} inputs, and the "
            "kernels have one for a row; train it with int8_per_channel or int4_per_channel"
        )
    dynamic = _DYNAMIC[layer.activations]
    step = float(layer.input_scale) if dynamic == FIXED else 1.0
    zero = int(layer.input_zero_point) if dynamic == FIXED else 0
    return IntegerLayer(
        layer.codes.contiguous(), layer.scales.reshape(-1).expand(rows), bias, dynamic, step, zero
    )


def quantized(model: nn.Module) -> dict[nn.Module, QuantizedLayer]:
    """Return the quantized layers of a model that multiply, by their modules: those may have many names."""
    layers = quantized_layers(model).items()
    return {model.get_submodule(name): layer for name, layer in layers if not layer.embedding}
