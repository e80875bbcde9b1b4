"""Round weights to few integers: schemes of bits and of the weights that share a scale."""

import re
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Granularity = Literal["tensor", "channel", "group"]
# Smaller steps would be denormal: with fewer digits, codes might not fit.
# Rows that are read at a time.
_ROWS_AT_ONCE = 1 << 11
_SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class WeightScheme:
    """Symmetric signed integers of `bits`, from -(2^(bits-1) - 1) to 2^(bits-1) - 1, so that 0 stays 0.

    A scale is shared by the whole weight (`tensor`), by a row (`channel`), or by `group` consecutive inputs.
    Scales of float32 weights are rounded to the 8 significant bits of bfloat16, so that a file stores each in
    about a byte. Scales of 16-bit weights are not rounded: the largest weight, itself in 16 bits, would give
    another scale back. Nor are those of an `exact` scheme, for float32 weights that once had 16 bits.
    """

    bits: int = 8
    granularity: Granularity = "channel"
    group: int | None = None
    exact: bool = False

    def __str__(self) -> str:
        ending = f"group_{self.group}" if self.granularity == "group" else f"per_{self.granularity}"
        return f"int{self.bits}_{ending}"

    @property
    def highest(self) -> int:
        """The largest code; the smallest is its negative."""
        return 2 ** (self.bits - 1) - 1

    def check(self, name: str, shape: tuple[int, int]) -> None:
        """Raise `ValueError` if the scheme cannot cover a weight (out, in)."""
        if self.group is not None and shape[1] % self.group:
            raise ValueError(
                f"scheme {self} does not cover {name} of shape {shape[0]} x {shape[1]}: {shape[1]} inputs "
                f"are not a multiple of {self.group}; exclude it, or choose another group or per_channel"
            )

    def scales(self, weight: Tensor) -> Tensor:
        """Return the float32 step between codes: (1, 1), (out, 1) or (out, in / group).

        The step of weights that are all zero is 1, since they are divided by it. The largest weight becomes
        `highest` steps when it is rounded, so that a rounded weight has the same steps.
        """
        # In parts: absolute values of a whole table of embeddings would take as much memory as the table.
        rows = self._rows(weight.detach())
        sizes = torch.empty(len(rows), 1, dtype=rows.dtype, device=rows.device)
        for part, into in zip(_in_parts(rows), _in_parts(sizes), strict=True):
            torch.amax(part.abs(), -1, keepdim=True, out=into)
        scales = self._steps(sizes, weight.dtype)
        return scales.view(len(weight), -1) if self.group else scales

    def suiting(self, weight: Tensor) -> "WeightScheme":
        """Return the scheme, this one or its `exact` variant, that rounded a weight (out, in)."""
        steps = replace(self, exact=True).scales(weight)
        return replace(self, exact=not torch.equal(steps.bfloat16().float(), steps))

    def codes(self, weight: Tensor, scales: Tensor) -> Tensor:
        """Round a weight (out, in) to int8 codes of the same shape."""
        codes = torch.div(self._rows(weight.float()), scales.view(-1, 1)).round_()
        return codes.to(torch.int8).view(weight.shape)

    def restore(self, codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (out, in), codes times scales."""
        rows = self._rows(codes)
        weight = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        steps = scales.view(-1, 1).expand(len(rows), 1)
        for part, step, into in zip(*map(_in_parts, (rows, steps, weight)), strict=True):
            into.copy_(part * step)
        return weight.view(codes.shape)

    def simulate(self, weight: Tensor, steps: Tensor | None = None) -> Tensor:
        """Return a weight (out, in) rounded; the gradient passes straight through.

        `steps`, (1, 1), are the scales of a larger weight of which this is a part.
        """
        return _Simulated.apply(weight, self, steps)

    def _rows(self, weight: Tensor) -> Tensor:
        """Return the weight with one row for each scale; for a scale of the whole weight, unchanged."""
        return weight.reshape(-1, self.group) if self.group else weight

    def _steps(self, sizes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the step of each row of absolute values of weights of some dtype, or of all rows."""
        # `aminmax` along a dimension takes eight times as long on a CPU.
        largest = sizes.amax(-1, keepdim=True).float()
        if self.granularity == "tensor":
            largest = largest.amax().view(1, 1)
        steps = largest.div_(self.highest)
        if not (self.exact or is_short(dtype)):
            steps = steps.bfloat16().float()
        return steps.masked_fill_(steps < _SMALLEST, 1.0)


def _in_parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Return rows in parts, so that what is computed for one takes little memory."""
    return rows.split(_ROWS_AT_ONCE)


def is_short(dtype: torch.dtype) -> bool:
    """Return whether a dtype has 16 bits or less, so that steps of its weights are not rounded."""
    return torch.finfo(dtype).bits <= 16


class _Simulated(torch.autograd.Function):
    """Rounding. Scales follow the largest weight, so nothing is clipped and the gradient is all ones."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, scheme: WeightScheme, steps: Tensor | None) -> Tensor:
        rows = scheme._rows(weight.float())
        sizes = rows.abs()
        steps = scheme._steps(sizes, weight.dtype) if steps is None else steps
        # Reuse `sizes`: fresh memory costs more than a pass over cached memory.
        rounded = torch.div(rows, steps, out=sizes).round_().mul_(steps)
        return rounded.view(weight.shape).to(weight.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def read_weight_scheme(text: str) -> WeightScheme:
    """Return the scheme of a text such as int8_per_channel, int8_per_tensor or int4_group_32."""
    match = re.fullmatch(r"int([2-8])_(?:per_(channel|tensor)|group_([1-9]\d*))", text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a scheme of weights; write int8_per_channel, int8_per_tensor, int4_per_channel "
            "or int4_group_32 (2 to 8 bits, any size of group)"
        )
    bits, whole, group = match.groups()
    granularity: Granularity = "group" if group else "tensor" if whole == "tensor" else "channel"
    return WeightScheme(int(bits), granularity, int(group) if group else None)
