"""The specification of the kernels: slow functions of PyTorch that give the same bits.

Integers are summed exactly, as float64. Operations in float32 have the same order as in the kernels, one at a
time, since sums of floats depend on it; kernels/*.h give the reason of each step. encoders/layer_reference.py
specifies attention and whole layers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_sparse.runtime.integer_layer import FIXED, SYMMETRIC, IntegerLayer

# 1.5 * 2^23: a float32 to which it is added is rounded to a whole number, ties to even.
_MAGIC = 12582912.0


def fused(values: Tensor, factors: Tensor, terms: Tensor) -> Tensor:
    """Return values * factors + terms of float32, rounded once, as a fused multiply-add does.

    Products are exact in float64. The last bit of a sum that is not exact is made odd there, so that rounding
    it to float32 is as rounding once.
    """
    products, terms = values.double() * factors.double(), terms.double()
    sums = products + terms
    back = sums - products
    errors = (products - (sums - back)) + (terms - back)
    bits = sums.view(torch.int64)
    outwards = torch.where((errors > 0) == (sums > 0), 1, -1)
    odd = torch.where((errors.abs() > 0) & (bits % 2 == 0), bits + outwards, bits)
    return odd.view(torch.float64).float()


def quantize(layer: IntegerLayer, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round values (tokens, in) to codes from 0 to 255; return them with step and zero of each token."""
    tokens = len(values)
    if layer.dynamic == FIXED:
        steps = torch.full((tokens, 1), layer.input_step)
        zeros = torch.full((tokens, 1), float(layer.input_zero))
    else:
        known = values.nan_to_num(0.0, math.inf, -math.inf)
        high = known.amax(1, keepdim=True).clamp(0.0, 3e38)
        low = known.amin(1, keepdim=True).clamp(-3e38, 0.0)
        if layer.dynamic == SYMMETRIC:
            steps, zeros = torch.maximum(high, -low) / 127, torch.full((tokens, 1), 128.0)
        else:
            steps = high / 255 - low / 255
            zeros = (-low / torch.where(steps > 0, steps, 1.0)).round()
        steps = torch.where(steps > 0, steps, 1.0)
    codes = fused(values, 1 / steps, zeros)
    return torch.where(codes < 255, codes, 255.0).round().clamp(min=0.0), steps, zeros


def linear(layer: IntegerLayer, values: Tensor) -> Tensor:
    """Return a layer's outputs (tokens, out) for float32 values (tokens, in)."""
    codes, steps, zeros = quantize(layer, values)
    weights = layer.codes.double()
    sums = codes.double() @ weights.t() - zeros.double() * weights.sum(1)
    bias = torch.zeros(()) if layer.bias is None else layer.bias.float()
    if layer.dynamic == FIXED:
        outputs = fused(sums.float(), layer.multipliers, bias)
    else:
        outputs = fused(sums.float() * layer.multipliers, steps, bias)
    # A fixed grid clips infinity as any large number; a dynamic grid cannot take its step from it.
    broken = values.isnan() if layer.dynamic == FIXED else ~values.isfinite()
    return outputs.masked_fill(broken.any(1, keepdim=True), math.nan)


def exponential(values: Tensor) -> Tensor:
    """Return e^x of float32 values, which are first clipped to [-87, 88]."""
    values = values.clamp(-87.0, 88.0)
    whole = whole_products(values, f32(1.44269504))
    rest = fused(whole, f32(2.12194440e-4), fused(whole, f32(-0.693359375), values))
    series = _polynomial(rest, (1.3888889e-3, 8.3333333e-3, 4.1666667e-2, 1.6666667e-1, 0.5, 1.0, 1.0))
    return series * _powers_of_two(whole)


def power_of_two(values: Tensor, factor: Tensor) -> Tensor:
    """Return 2^(x * factor) for x * factor from -120 to 0, as precisely as probabilities need it."""
    whole = whole_products(values, factor)
    rest = fused(values, factor, -whole)
    return _polynomial(rest, (5.517101e-2, 2.426112e-1, 6.9326108e-1, 9.9992807e-1)) * _powers_of_two(whole)


def sigmoid(values: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + exponential(-values))


def relu(values: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.where(values <= 0, 0.0, values)


def gelu(values: Tensor) -> Tensor:
    """Return x * P(a normal variable is below x), with P below 0 as the fourth power of a polynomial."""
    negative = (-values.abs()).clamp(min=f32(-4.28140127).item())
    series = _polynomial(
        negative,
        (
            *(4.92373280e-4, 2.84628732e-3, -8.48835919e-3),
            *(-5.46109411e-2, 1.65762735e-1, 8.40630419e-1),
        ),
    )
    square = series * series
    return fused(negative, square * square, relu(values))


def gelu_tanh(values: Tensor) -> Tensor:
    """Return GELU approximated by tanh."""
    cube = values * values * values
    return values * sigmoid(f32(1.59576912) * fused(f32(0.044715), cube, values))


def silu(values: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    return values * sigmoid(values)


ACTIVATIONS = {1: relu, 2: gelu, 3: gelu_tanh, 4: silu}


def halves(values: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Return 16-bit codes, as float64, and the step between them."""
    largest = values.abs().max()
    step = torch.where(largest > 1e-30, largest / bound, 1.0)
    return whole_products(values, 1 / step).double(), step


def in_order(values: Tensor) -> Tensor:
    """Return the sum along the last dimension, added in order, (..., 1)."""
    total = torch.zeros_like(values[..., 0])
    for value in values.unbind(-1):
        total = total + value
    return total[..., None]


def _polynomial(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    series = torch.full_like(values, coefficients[0])
    for coefficient in coefficients[1:]:
        series = fused(series, values, f32(coefficient))
    return series


def _powers_of_two(whole: Tensor) -> Tensor:
    return ((whole.int() + 127) << 23).view(torch.float32)


def whole_products(values: Tensor, factor: Tensor) -> Tensor:
    """Return the whole numbers nearest to products, which are below 2^22."""
    return fused(values, factor, f32(_MAGIC)) - _MAGIC


def f32(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float32)
