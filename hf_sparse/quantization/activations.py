"""Round activations to a grid of 256 integers, and observe the range that it covers."""

from collections.abc import Callable
from math import isfinite, isinf

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import hardtanh

LEVELS = 255


def parameters(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 scale and int32 zero point of the uint8 grid over [low, high], widened to hold 0.

    The scale of an empty range is 1.
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale == 0, 1.0, scale)
    return scale, torch.round(-low / scale).clamp_(0, LEVELS).to(torch.int32)


def simulate(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return values rounded to the uint8 grid over [low, high].

    Values outside the range become its ends and get no gradient.
    """
    if torch.compiler.is_compiling():
        return _traced(values, *parameters(low, high))
    if values.device.type == "cpu":
        return _on_cpu(values, *_numbers(low, high))
    return torch.fake_quantize_per_tensor_affine(values, *parameters(low, high), 0, LEVELS)


def _numbers(low: Tensor, high: Tensor) -> tuple[float, float]:
    """Return `parameters` bit for bit, without its dozen tensor operations, which cost as much as a layer."""
    lowest, highest = np.float32(min(low.item(), 0)), np.float32(max(high.item(), 0))
    with np.errstate(all="ignore"):
        scale = (highest - lowest) / np.float32(LEVELS) or np.float32(1)
        return float(scale), float(min(max(np.rint(-lowest / scale), 0), LEVELS))


def _on_cpu(values: Tensor, scale: float, zero_point: float) -> Tensor:
    """Do the same as `torch.fake_quantize_per_tensor_affine`, which on a CPU works value by value."""
    # Codes minus the zero point, which would only be added and subtracted again.
    lowest, highest = -zero_point, LEVELS - zero_point
    # Less than half a step beyond the ends, so that rounding stays on the grid. Its gradient takes one pass.
    clipped = hardtanh(values.float(), (lowest - 0.499) * scale, (highest + 0.499) * scale)
    # Hidden from autograd: the gradient passes straight through, cheaper than by an autograd function.
    with torch.no_grad():
        clipped.mul_(1 / scale).round_().mul_(scale)
    return clipped.to(values.dtype)


def _traced(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Do the same where a compiler traces: it would make numbers constants, and cannot trace torch's own."""
    lowest = -zero_point.float()
    limits = (lowest - 0.499) * scale, (lowest + LEVELS + 0.499) * scale
    return _OnGrid.apply(torch.clamp(values.float(), *limits), scale).to(values.dtype)


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, scale: Tensor) -> Tensor:
        return (values * (1 / scale)).round_().mul_(scale)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _PerToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        scales = values.abs().amax(-1, keepdim=True).float() / 127
        scales = torch.where(scales == 0, 1.0, scales)
        return (values / scales).round_().mul_(scales).to(values.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


def simulate_per_token(values: Tensor) -> Tensor:
    """Return values rounded to 127 steps of the largest absolute value of each token (last dimension)."""
    return _PerToken.apply(values)


Range = tuple[Tensor, Tensor]


def _smallest_and_largest(values: Tensor) -> Range:
    low, high = torch.aminmax(values)
    return low.float(), high.float()


# The share of the values that is clipped at each end.
_TAIL = 1e-4
_SAMPLE = 1 << 16


def _percentiles(values: Tensor) -> Range:
    flat = values.float().flatten()
    # An odd stride, so that a sample of a wide layer holds all of its features.
    sample = flat[:: (len(flat) // _SAMPLE) | 1]
    low, high = torch.quantile(sample, torch.tensor([_TAIL, 1 - _TAIL], device=values.device))
    return low, high


def _least_squares(values: Tensor) -> Range:
    """Return the range with the least squared error, of the full range and narrower ones."""
    low, high = _smallest_and_largest(values)
    flat = values.float().flatten()
    sample = flat[:: (len(flat) // _SAMPLE) | 1]
    shares = [1 - step / 40 for step in range(36)]
    errors = torch.stack([(simulate(sample, low * s, high * s) - sample).square().sum() for s in shares])
    best = torch.tensor(shares, device=values.device)[errors.argmin()]
    return low * best, high * best


# How the range of one batch is measured, and its weight in the moving average; None keeps the widest range.
OBSERVERS: dict[str, tuple[Callable[[Tensor], Range], float | None]] = {
    "moving_average": (_smallest_and_largest, 0.01),
    "min_max": (_smallest_and_largest, None),
    "percentile": (_percentiles, 0.01),
    "mean_squared_error": (_least_squares, 0.01),
}


def observe(observer: str, values: Tensor, low: Tensor, high: Tensor) -> None:
    """Move the range [low, high], scalars that are changed in place, towards the values of a batch.

    A new range is [inf, -inf]. A batch with values that are not finite changes nothing.
    """
    measure, share = OBSERVERS[observer]
    with torch.no_grad():
        lowest, highest = measure(values.detach())
        if low.device.type == "cpu" and not torch.compiler.is_compiling():
            _follow_numbers(share, lowest.item(), highest.item(), low, high)
        else:
            _follow(share, lowest, highest, low, high)


def merge(observer: str, lows: Tensor, highs: Tensor) -> Range:
    """Return one range for each layer from those that several processes have observed, (processes, layers).

    The widest for observers that keep the widest range, else the mean. Ranges that are not finite are left
    out; [inf, -inf] where none is.
    """
    seen = lows.isfinite() & highs.isfinite()
    low, high = lows.masked_fill(~seen, torch.inf), highs.masked_fill(~seen, -torch.inf)
    if OBSERVERS[observer][1] is None:
        return low.amin(0), high.amax(0)
    # In float64, so that the mean of equal ranges is that range.
    low, high = (torch.where(seen, ends.double(), 0.0).sum(0) / seen.sum(0) for ends in (low, high))
    none = ~seen.any(0)
    return low.float().masked_fill_(none, torch.inf), high.float().masked_fill_(none, -torch.inf)


def _follow_numbers(share: float | None, lowest: float, highest: float, low: Tensor, high: Tensor) -> None:
    """Do the same as `_follow` on the CPU, in a tenth of the time."""
    if not (isfinite(lowest) and isfinite(highest)):
        return
    for bound, first, wider in ((low, lowest, min), (high, highest, max)):
        before = bound.item()
        if share is None:
            bound.fill_(wider(before, first))
        else:
            bound.fill_(first if isinf(before) else before + share * (first - before))


def _follow(share: float | None, lowest: Tensor, highest: Tensor, low: Tensor, high: Tensor) -> None:
    fine = torch.isfinite(lowest) & torch.isfinite(highest)
    fresh = torch.isinf(low)
    if share is None:
        wide = torch.minimum(low, lowest), torch.maximum(high, highest)
    else:
        wide = torch.lerp(low, lowest, share), torch.lerp(high, highest, share)
    for bound, first, later in zip((low, high), (lowest, highest), wide, strict=True):
        bound.copy_(torch.where(fine, torch.where(fresh, first, later), bound))
