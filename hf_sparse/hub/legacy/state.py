"""A checkpoint on its way from its layout to today's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

# The second is what transformers of today ignores; heads that it counts have been put back.
_UNSAID = ("model_type", "pruned_heads")
POOLER = ".pooler.dense"
"""What checkpoints hold of a pooler, be it that their class has none."""


@dataclass(frozen=True)
class State:
    """The tensors of a checkpoint by their keys, and its config.json."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def stock_config(self) -> PreTrainedConfig:
        """Return the configuration as transformers has it; raise `ValueError` if it has none such."""
        rest = {key: value for key, value in self.config.items() if key not in _UNSAID}
        try:
            return AutoConfig.for_model(self.config.get("model_type", ""), **rest)
        except Exception as error:
            raise ValueError(
                f"config.json is of no model that transformers knows ({first_line(error)}); correct it"
            ) from error


@dataclass(frozen=True)
class Grid:
    """The 256 codes from `low` on, each worth `scale * (code - zero_point)`, as floats.

    There is one scale and zero point for a tensor, or one for every row.
    """

    scale: Tensor
    zero_point: Tensor
    low: int

    def fits(self, rows: int) -> bool:
        """Say whether there is one scale, or one for each of so many rows, and all are positive."""
        sizes = {self.scale.numel(), self.zero_point.numel()}
        return sizes <= {1, rows} and bool((self.scale.isfinite() & (self.scale > 0)).all())

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest values that have a code."""
        shape = (-1, *[1] * (values.dim() - 1))
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        codes = ((values / scale).round() + zero_point).clamp(self.low, self.low + 255)
        return (codes - zero_point) * scale


@dataclass(frozen=True)
class Rounds:
    """What a layer rounds in every forward pass; None for what it leaves as it is."""

    weight: Grid | None = None
    inputs: Grid | None = None
    outputs: Grid | None = None


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint, with a sentence for each thing that was done.

    `as_written` makes of a module of the stock model one that computes as the library did that wrote the
    layout, from the tensors it wrote, before any rounding; `rounded` says what it rounded, None where that is
    not known in full. Modules go by their names in the checkpoint.
    """

    state: State
    notes: tuple[str, ...]
    as_written: Mapping[str, Callable[[nn.Module], nn.Module]] = field(default_factory=dict)
    rounded: Mapping[str, Rounds | None] = field(default_factory=dict)


def some(count: int, what: str) -> str:
    """Write a number of things."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def listed(names: list[str]) -> str:
    """Name the first three of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def first_line(error: Exception) -> str:
    """Return what an error says first, its name if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
