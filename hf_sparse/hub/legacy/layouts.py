"""Every layout that is recognised, undone one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from hf_sparse.hub.legacy.bitmask import unpack_bitmasks
from hf_sparse.hub.legacy.masked import fold_intel_masks, fold_parametrizations, fold_torch_masks
from hf_sparse.hub.legacy.no_norm import turn_into_mobilebert
from hf_sparse.hub.legacy.quantization_aware import drop_observers
from hf_sparse.hub.legacy.removed import refill_removed
from hf_sparse.hub.legacy.state import Conversion, Rounds, State

LAYOUTS: Mapping[str, Callable[[State], Conversion | None]] = {
    "quantization_aware": drop_observers,
    "intel_masks": fold_intel_masks,
    "torch_masks": fold_torch_masks,
    "parametrizations": fold_parametrizations,
    "bitmasks": unpack_bitmasks,
    "removed": refill_removed,
    "no_norm": turn_into_mobilebert,
}
"""By its name, what undoes a layout; it returns None for a checkpoint that is not in it."""


@dataclass(frozen=True)
class Undone:
    """A checkpoint of today: its layouts, what was done in words, its modules as they were written.

    `kin` is the checkpoint as the kind of model that it was, which `as_written` and `rounded` go by: itself,
    unless a layout turned it into another.
    """

    state: State
    kin: State
    layouts: tuple[str, ...]
    notes: tuple[str, ...]
    as_written: Mapping[str, Callable[[nn.Module], nn.Module]]
    rounded: Mapping[str, Rounds | None]


def undo_layouts(read: State) -> Undone:
    """Undo every layout that a checkpoint is in; raise `ValueError` where one cannot be."""
    state = kin = read
    layouts, notes, as_written, rounded = [], [], {}, {}
    for name, convert in LAYOUTS.items():
        if (conversion := convert(state)) is None:
            continue
        state = conversion.state
        kin = state if state.config.get("model_type") == read.config.get("model_type") else kin
        layouts.append(name)
        notes += conversion.notes
        as_written |= conversion.as_written
        rounded |= conversion.rounded
    return Undone(state, kin, tuple(layouts), tuple(notes), as_written, rounded)
