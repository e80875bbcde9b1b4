"""Every layout that is recognised, in the order in which they are undone."""

from collections.abc import Callable, Mapping

from hf_sparse.hub.legacy.bitmask import unpack_bitmasks
from hf_sparse.hub.legacy.masked import fold_intel_masks, fold_parametrizations, fold_torch_masks
from hf_sparse.hub.legacy.no_norm import turn_into_mobilebert
from hf_sparse.hub.legacy.quantization_aware import drop_observers
from hf_sparse.hub.legacy.removed import refill_removed
from hf_sparse.hub.legacy.state import Conversion, State

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
