"""Undo weights beside their masks, as the pruning hooks of two libraries save them.

Intel's Model-Compression-Research-Package (`model_compression_research/pruning/methods/magnitude_method.py`
and `pattern_lock.py`) has a parameter `weight_original` and a buffer `weight_mask` (floats in the shape of
the weight, also for blocks) and computes with their product; the models of Prune Once for All come from it.
`torch.nn.utils.prune` does the same with `weight_orig` and `weight_mask`, also for biases. Parametrizations
(`torch.nn.utils.parametrize`, as in `torch.ao.pruning`) have `parametrizations.weight.original` and a buffer
of the mask's module, usually `parametrizations.weight.0.mask`.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_sparse.hub.legacy.old_checkpoint import Conversion, State, some

_PARAMETRIZED = re.compile(r"(?P<module>.+)\.parametrizations\.(?P<own>\w+)\.original0?")


def fold_intel_masks(state: State) -> Conversion | None:
    """Multiply `weight_original` by `weight_mask`."""
    return _fold_hooks(state, "original")


def fold_torch_masks(state: State) -> Conversion | None:
    """Multiply `weight_orig` by `weight_mask`."""
    return _fold_hooks(state, "orig")


def fold_parametrizations(state: State) -> Conversion | None:
    """Multiply `parametrizations.weight.original` by the mask beside it."""
    pairs = {}
    for key in state.tensors:
        match = _PARAMETRIZED.fullmatch(key)
        # Two originals belong to a weight norm, which stock models have too.
        if match is None or f"{key.removesuffix('0')}1" in state.tensors:
            continue
        home = f"{match['module']}.parametrizations.{match['own']}."
        beside = [other for other in state.tensors if other.startswith(home) and other != key]
        if len(beside) != 1 or not beside[0].startswith(f"{home}0."):
            raise ValueError(
                f"{key} has {some(len(beside), 'tensor')} beside it where one mask is expected, such as "
                f"{home}0.mask; take the parametrization off with its own library (remove_parametrizations)"
            )
        pairs[f"{match['module']}.{match['own']}"] = (key, beside[0])
    return _fold(state, pairs, "parametrizations.weight") if pairs else None


def _fold_hooks(state: State, ending: str) -> Conversion | None:
    tensors = state.tensors
    for key in tensors:
        base = key.removesuffix("_mask")
        if base != key and base.endswith((".weight", ".bias")):
            _require_partner(tensors, key, f"{base}_original", f"{base}_orig")
    bases = [key.removesuffix(f"_{ending}") for key in tensors if key.endswith(f"_{ending}")]
    for base in bases:
        _require_partner(tensors, f"{base}_{ending}", f"{base}_mask")
    pairs = {base: (f"{base}_{ending}", f"{base}_mask") for base in bases}
    return _fold(state, pairs, f"weight_{ending}, weight_mask") if pairs else None


def _require_partner(tensors: Mapping[str, Tensor], key: str, *partners: str) -> None:
    if not any(partner in tensors for partner in partners):
        raise ValueError(
            f"{key} lacks {' or '.join(partners)} beside it, so the weight is not whole; get all files of "
            "the checkpoint"
        )


def _fold(state: State, pairs: Mapping[str, tuple[str, str]], keys: str) -> Conversion:
    used = {key for pair in pairs.values() for key in pair}
    tensors = {key: value for key, value in state.tensors.items() if key not in used}
    factors: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for base, (original, mask) in pairs.items():
        if base in tensors:
            raise ValueError(
                f"the checkpoint holds {base} and {original}, and cannot say which counts; remove one of them"
            )
        values, keep = state.tensors[original], state.tensors[mask]
        _check(mask, keep, original, values)
        tensors[base] = torch.where(keep.bool(), values, torch.zeros_like(values))
        module, _, own = base.rpartition(".")
        factors.setdefault(module, {})[own] = (values, keep)
    note = f"{some(len(pairs), 'tensor')} multiplied by the mask ({keys})"
    as_written = {module: partial(_Masked, factors=own) for module, own in factors.items()}
    return Conversion(State(tensors, state.config), (note,), as_written)


def _check(name: str, mask: Tensor, original: str, values: Tensor) -> None:
    if mask.shape != values.shape:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)} and {original} {tuple(values.shape)}; a mask has one "
            "entry for every weight"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name} holds other numbers than 0 and 1; a mask says what is kept, get it again")


class _Masked(nn.Module):
    """A module that multiplies its weights by their masks before every forward pass, as the hooks do."""

    def __init__(self, module: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.module, self.factors = module, factors

    def forward(self, *arguments: Any, **named: Any) -> Any:
        values = {name: value.float() * mask.float() for name, (value, mask) in self.factors.items()}
        return functional_call(self.module, values, arguments, named)
