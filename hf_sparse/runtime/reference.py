"""The specification of the kernels: slow functions of PyTorch that give the same bits.

Integers are summed exactly, as float64. Operations in float32 have the same order as in the kernels, one at a
time, since sums of floats depend on it; kernels/*.h give the reason of each step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_sparse.runtime.integer_layer import FIXED, SYMMETRIC, IntegerLayer

Norm = tuple[Tensor, Tensor]
_SUM_OF_PROBABILITIES, _RUN = 131072, 512
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
    whole = _whole(values, _f32(1.44269504))
    rest = fused(whole, _f32(2.12194440e-4), fused(whole, _f32(-0.693359375), values))
    series = _polynomial(rest, (1.3888889e-3, 8.3333333e-3, 4.1666667e-2, 1.6666667e-1, 0.5, 1.0, 1.0))
    return series * _powers_of_two(whole)


def power_of_two(values: Tensor, factor: Tensor) -> Tensor:
    """Return 2^(x * factor) for x * factor from -120 to 0, as precisely as probabilities need it."""
    whole = _whole(values, factor)
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
    negative = (-values.abs()).clamp(min=_f32(-4.28140127).item())
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
    return values * sigmoid(_f32(1.59576912) * fused(_f32(0.044715), cube, values))


def silu(values: Tensor) -> Tensor:
    """Return x * sigmoid(x)."""
    return values * sigmoid(values)


ACTIVATIONS = {1: relu, 2: gelu, 3: gelu_tanh, 4: silu}


@dataclass(frozen=True)
class Distances:
    """How scores depend on places; `columns` (tokens,) has the place of each token in its text.

    `window` is the largest distance that a token sees, or -1. `bias` has what is added to a score times log2(e),
    by `reach` and the place of the query less that of the key.
    """

    columns: Tensor
    window: int = -1
    bias: Tensor | None = None
    reach: int = 0

    def apply(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (queries, keys), in powers of two, and which are not seen."""
        apart = self.columns[:, None] - self.columns
        if self.bias is not None:
            scores = scores + self.bias[self.reach + apart]
        unseen = apart.abs() > self.window if self.window >= 0 else torch.zeros_like(apart, dtype=torch.bool)
        return scores.masked_fill(unseen, -3e38), unseen


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float | None = None,
    distances: Distances | None = None,
) -> Tensor:
    """Return the outputs of one head for one sequence; all tensors are (tokens, width)."""
    if not all(part.isfinite().all() for part in (queries, keys, values)):
        return torch.full_like(queries, math.nan)
    width = queries.shape[1]
    bound = int(min(32767.0, math.floor(math.sqrt(2147483647.0 / width))))
    value_bound = int(min(32767.0, 2147483647.0 / (_SUM_OF_PROBABILITIES + _RUN)))
    (q, q_step), (k, k_step), (v, v_step) = (
        _halves(queries, bound),
        _halves(keys, bound),
        _halves(values, value_bound),
    )
    scale = q_step * k_step * _f32(width**-0.5 if scaling is None else scaling) * _f32(1.44269504)
    scores = (q @ k.t()).float()
    if distances is None:
        scale = scale.clamp(max=3e38)
        apart = torch.maximum(scores - scores.amax(1, keepdim=True), -120 / scale)
        shares = power_of_two(apart, scale)
    else:
        scores, unseen = distances.apply(scores * scale.clamp(max=1e28))
        apart = (scores - scores.amax(1, keepdim=True)).clamp(min=-120.0)
        shares = power_of_two(apart, _f32(1.0)).masked_fill(unseen, 0.0)
    most = torch.cat([_in_order(run) for run in shares.split(_RUN, 1)], 1).amax(1, keepdim=True)
    factor = torch.minimum(_SUM_OF_PROBABILITIES / most, torch.tensor(32767.0))
    codes = _whole(shares, factor).double()
    sums = [(run @ part).float() for run, part in zip(codes.split(_RUN, 1), v.split(_RUN), strict=True)]
    return _in_order(torch.stack(sums, -1))[..., 0] * (v_step / codes.sum(1, keepdim=True).float())


def rotate(values: Tensor, turns: Tensor) -> Tensor:
    """Turn features (tokens, width) by `turns` (tokens, 2 * pairs), cosines and then sines of each pair."""
    pairs = turns.shape[1] // 2
    one, other, rest = values[:, :pairs], values[:, pairs : 2 * pairs], values[:, 2 * pairs :]
    cosines, sines = turns[:, :pairs], turns[:, pairs:]
    return torch.cat([fused(one, cosines, -(other * sines)), fused(other, cosines, one * sines), rest], 1)


def normalize(values: Tensor, weight: Tensor, bias: Tensor, epsilon: float, centered: bool = True) -> Tensor:
    """Return the LayerNorm of values (tokens, features), or their RMSNorm, which subtracts no mean."""
    count = float(values.shape[1])
    apart = values - _in_order(values) / count if centered else values
    squares = torch.zeros_like(apart[:, 0])
    for one in apart.unbind(-1):
        squares = fused(one, one, squares)
    # Through float64, which rounds as processors do; float32 `sqrt` of torch may differ in the last bit.
    deviation = (squares[:, None] / count + _f32(epsilon)).double().sqrt().float()
    return fused(apart * (1 / deviation), weight, bias)


@dataclass(frozen=True)
class Variant:
    """How a layer differs from that of BERT.

    `key_heads` heads of keys and values are shared by the heads of queries. `norms_first` puts the norms before
    the attention and the feed-forward layer; without `centered` they are RMSNorms. `turns` rotate queries and
    keys. `distances` has an entry for each head.
    """

    key_heads: int | None = None
    norms_first: bool = False
    centered: bool = True
    turns: Tensor | None = None
    distances: Sequence[Distances | None] | None = None


BERT = Variant()


def encoder_layer(
    linears: Sequence[IntegerLayer],
    norms: tuple[Norm | None, Norm],
    heads: int,
    activation: int,
    epsilon: float,
    states: Tensor,
    variant: Variant = BERT,
) -> Tensor:
    """Return the outputs of a layer for one sequence (tokens, hidden).

    `linears` are ordered as LINEARS, six of them or seven with a gate.
    """
    query, key, value, output, intermediate, *gate, last = linears
    first, turns, distances = variant.norms_first, variant.turns, variant.distances
    sharing, width = heads // (variant.key_heads or heads), states.shape[1] // heads

    def norm(values: Tensor, which: Norm | None) -> Tensor:
        if which is None:
            return values
        return normalize(values, *which, epsilon, variant.centered)

    inputs = norm(states, norms[0]) if first else states
    queries, keys, looked_at = (linear(layer, inputs).split(width, 1) for layer in (query, key, value))
    if turns is not None:
        queries, keys = ([rotate(head, turns) for head in one] for one in (queries, keys))
    looked = torch.cat(
        [
            attention(
                queries[head],
                keys[head // sharing],
                looked_at[head // sharing],
                distances=None if distances is None else distances[head],
            )
            for head in range(heads)
        ],
        1,
    )
    states = states + linear(output, looked)
    states = states if first else norm(states, norms[0])
    inputs = norm(states, norms[1]) if first else states
    between = ACTIVATIONS[activation](linear(intermediate, inputs))
    for layer in gate:
        between = between * linear(layer, inputs)
    states = states + linear(last, between)
    return states if first else norm(states, norms[1])


def _halves(values: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Return 16-bit codes, as float64, and the step between them."""
    largest = values.abs().max()
    step = torch.where(largest > 1e-30, largest / bound, 1.0)
    return _whole(values, 1 / step).double(), step


def _in_order(values: Tensor) -> Tensor:
    """Return the sum along the last dimension, added in order, (..., 1)."""
    total = torch.zeros_like(values[..., 0])
    for value in values.unbind(-1):
        total = total + value
    return total[..., None]


def _polynomial(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    series = torch.full_like(values, coefficients[0])
    for coefficient in coefficients[1:]:
        series = fused(series, values, _f32(coefficient))
    return series


def _powers_of_two(whole: Tensor) -> Tensor:
    return ((whole.int() + 127) << 23).view(torch.float32)


def _whole(values: Tensor, factor: Tensor) -> Tensor:
    """Return the whole numbers nearest to products, which are below 2^22."""
    return fused(values, factor, _f32(_MAGIC)) - _MAGIC


def _f32(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float32)
