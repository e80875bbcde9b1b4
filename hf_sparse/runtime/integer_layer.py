"""One layer as integers: the codes of its weight and the grid of its input, however it was quantized."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.quantized_layers import QuantizedLayer, quantized_layers
from hf_sparse.quantization.weights import WeightScheme

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationScheme

# Where the grid of an input comes from: it is fixed, or each token's own values give it.
FIXED, SYMMETRIC, RANGE = 0, 1, 2
_DYNAMIC = {"uint8_per_tensor": FIXED, "int8_per_token": SYMMETRIC, "none": RANGE}
_ROUNDED = WeightScheme()


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer of int8 `codes` (out, in), the `steps` between them, (out,) float32, and an optional `bias`.

    The input is rounded to 256 codes over [0, 255]: x is (code - zero) * step. `dynamic` says where zero and
    step come from. FIXED: they are `input_zero` and `input_step`. SYMMETRIC: the zero is 128, and a token's
    largest absolute value is 127 steps. RANGE: a token's values, and 0, span 255 steps.
    """

    codes: Tensor
    steps: Tensor
    bias: Tensor | None
    dynamic: int
    input_step: float = 1.0
    input_zero: int = 0

    @property
    def multipliers(self) -> Tensor:
        """The step of a sum of products, (out,), without the step of the token where the grid is dynamic."""
        if self.dynamic != FIXED:
            return self.steps
        return self.steps * torch.tensor(self.input_step, dtype=torch.float32, device="cpu")

    @property
    def sparsity(self) -> float:
        """The share of codes that are zero."""
        return 1 - int(np.count_nonzero(self.codes.numpy())) / self.codes.numel()


def quantized_linears(model: nn.Module) -> dict[nn.Module, QuantizedLayer]:
    """Return the quantized layers of a model by module, without embeddings."""
    layers = quantized_layers(model).items()
    return {model.get_submodule(name): layer for name, layer in layers if not layer.embedding}


def as_integers(name: str, module: nn.Module, layers: Mapping[nn.Module, QuantizedLayer]) -> IntegerLayer:
    """Return a Linear as integers, whether hf_sparse or compressed-tensors quantized it, or nothing did.

    Raises `ValueError` as `integer_layer` and `compressed_layer` do.
    """
    if is_compressed(module):
        return compressed_layer(name, module)
    return integer_layer(name, module, layers.get(module))


def integer_layer(name: str, module: nn.Module, layer: QuantizedLayer | None) -> IntegerLayer:
    """Return a module as integers: as it was quantized, or rounded now if `layer` is None.

    A plain weight is rounded to int8 per output, its input per token. Raises `ValueError` for scales of
    groups of inputs, weights that are not finite, and classes that may do more than a Linear.
    """
    if not isinstance(module, nn.Linear | Conv1D) or (
        layer is None and type(module) not in (nn.Linear, Conv1D)
    ):
        raise ValueError(
            f"{name} is a {type(module).__module__}.{type(module).__name__}, which may compute more than a "
            "Linear; merge adapters into the model first"
        )
    if layer is None:
        weight = module.weight.detach()
        weight = (weight.t() if isinstance(module, Conv1D) else weight).float().contiguous()
        if not torch.isfinite(weight).all():
            raise ValueError(f"the weight of {name} is not finite: take an earlier checkpoint")
        scales = _ROUNDED.scales(weight)
        return IntegerLayer(_ROUNDED.codes(weight, scales), scales.reshape(-1), module.bias, RANGE)
    return from_codes(name, layer, module.bias)


def from_codes(name: str, layer: QuantizedLayer, bias: Tensor | None) -> IntegerLayer:
    """Return a quantized layer as integers; raise `ValueError` for scales of groups of inputs."""
    rows, _ = layer.codes.shape
    if layer.weights.granularity == "group":
        raise ValueError(
            f"{name} is {layer.weights}, with a scale for every {layer.weights.group} inputs, and the "
            "kernels take one scale a row; train it with int8_per_channel or int4_per_channel"
        )
    dynamic, step, zero = _DYNAMIC[layer.activations], 1.0, 0
    if dynamic == FIXED:
        if layer.input_scale is None or layer.input_zero_point is None:
            raise ValueError(
                f"the range of the input of {name} is unknown; calibrate the model and save it again"
            )
        step, zero = float(layer.input_scale), int(layer.input_zero_point)
    steps = layer.scales.reshape(-1).expand(rows)
    return IntegerLayer(layer.codes.contiguous(), steps, bias, dynamic, step, zero)


def is_compressed(module: nn.Module) -> bool:
    """Return whether compressed-tensors made a Linear a quantized one."""
    scheme = getattr(module, "quantization_scheme", None)
    return isinstance(module, nn.Linear) and getattr(scheme, "weights", None) is not None


def compressed_layer(name: str, module: nn.Module) -> IntegerLayer:
    """Return a Linear that compressed-tensors quantized as integers.

    Its weight holds codes, or floats after a first forward pass. Raises `ValueError` for formats that the
    kernels cannot compute with.
    """
    scheme: QuantizationScheme | None = getattr(module, "quantization_scheme", None)
    if scheme is None or scheme.weights is None or not isinstance(module, nn.Linear):
        raise ValueError(f"{name} was not quantized by compressed-tensors; call integer_layer")
    scales = getattr(module, "weight_scale", None)
    rows = module.out_features
    if scheme.weights.type != "int" or scheme.weights.num_bits > 8:
        raise ValueError(
            f"the weight of {name} has {scheme.weights.num_bits} bits of type {scheme.weights.type}, and the "
            "kernels take integers of 8 bits or less"
        )
    # Codes of fewer bits are packed, several to a number.
    if not isinstance(getattr(module, "weight", None), Tensor) or scales is None:
        raise ValueError(
            f"the codes of {name} lie several in a number; call the model once, which takes them apart, "
            "or save it as a packed directory"
        )
    if scales.numel() not in (1, rows) or getattr(scheme.weights, "symmetric", True) is False:
        raise ValueError(f"{name} has scales of {tuple(scales.shape)}, and the kernels take one scale a row")
    steps = scales.detach().float().reshape(-1).expand(rows)
    weight = module.weight.detach()
    codes = weight if weight.dtype == torch.int8 else (weight.float() / steps[:, None]).round()
    return IntegerLayer(codes.to(torch.int8), steps, module.bias, *_compressed_input(name, module, scheme))


def _compressed_input(name: str, module: nn.Module, scheme: "QuantizationScheme") -> tuple[int, float, int]:
    """Return `dynamic`, step and zero of the input of a compressed layer."""
    arguments = scheme.input_activations
    if arguments is None:
        return RANGE, 1.0, 0
    if arguments.num_bits != 8 or arguments.type != "int":
        raise ValueError(
            f"inputs of {name} have {arguments.num_bits} bits of type {arguments.type}, and the kernels take "
            "integers of 8"
        )
    if arguments.dynamic and arguments.symmetric:
        return SYMMETRIC, 1.0, 0
    scale, zero = (getattr(module, f"input_{part}", None) for part in ("scale", "zero_point"))
    if arguments.dynamic or scale is None or scale.numel() != 1:
        raise ValueError(
            f"inputs of {name} are quantized by {arguments.strategy}, which the kernels cannot do"
        )
    # compressed-tensors stores signed codes.
    return FIXED, scale.item(), 128 + (0 if zero is None else int(zero.item()))
