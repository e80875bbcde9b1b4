"""Merging adapters into a sparse base, which keeps its zeros."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.checkpoint.sparsity_record import describe_lost, lost_zeros
from hf_sparse.modules import adapter_owner
from hf_sparse.quantization.embeddings import FakeQuantEmbedding
from hf_sparse.quantization.fake_layers import FakeQuantConv1D, FakeQuantLinear
from hf_sparse.targets import every_weight
from hf_sparse.training.parts.resolve import standing

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

PRUNE = ("refuse", "again")


@dataclass(frozen=True)
class _Merged:
    """The effect of merging on one layer.

    `zeros` are those that must stay, `filled` how many of them the update fills. `cut`, `update` and
    `rounding` are sums of squares: of the update at those zeros, of all of it, and of the change by rounding
    again, None for layers that do not round.
    """

    name: str
    zeros: Tensor
    filled: int
    cut: float
    update: float
    rounding: float | None


def merge_adapter(
    model: "PeftModel", prune: str = "refuse", adapter_names: Sequence[str] | None = None
) -> nn.Module:
    """Merge adapters of peft into their sparse base and return it, with the zeros it had.

    In layers that round their weight, the float weight is merged and rounded again; a warning says by how
    much that changes it.

    Args:
        model: The base with its adapters, as `get_peft_model` or `PeftModel.from_pretrained` returns it.
        prune: What to do with an ordinary adapter, which changes removed weights: `refuse` raises an error
            and leaves the model as it was; `again` sets those weights to zero again, and a warning says
            which share of the update that cut off.
        adapter_names: The adapters to merge, by default the active ones.

    Returns:
        The base model without adapters.

    Raises:
        ValueError: If the model cannot be merged, the adapter fills zeros, or the base has lost zeros before.
    """
    if prune not in PRUNE:
        raise ValueError(f"prune is one of {', '.join(PRUNE)}, got {prune!r}")
    _check_mergeable(model)
    names = None if adapter_names is None else list(adapter_names)
    sparse = _sparse_modules(model)
    layers = [_try(name, layer, sparse, names) for name, layer in _tuned(model)]
    filled = [layer for layer in layers if layer.filled]
    if filled and prune == "refuse":
        raise ValueError(
            f"the adapter fills {_count(filled)}, where {_share(filled, layers):.1%} of its update lies (by "
            "its squares); cut that off by merge_adapter(model, prune='again'), or train an adapter of "
            "SparseLoraConfig, which fills none"
        )
    modules = {name: layer.get_base_layer() for name, layer in _tuned(model)}
    merged = model.merge_and_unload(safe_merge=True, adapter_names=names)
    for layer in filled:
        with torch.no_grad():
            modules[layer.name].weight.masked_fill_(layer.zeros, 0.0)
    if filled:
        logger.warning(
            "The adapter filled %s: set to zero again, which cuts off %.1f %% of its update (squares).",
            _count(filled),
            100 * _share(filled, layers),
        )
    if rounded := [layer for layer in layers if layer.rounding is not None]:
        logger.warning(
            "%d merged layers round their weight again: that moves them by %.1f %% of the adapter's update.",
            len(rounded),
            100 * (sum(layer.rounding or 0.0 for layer in rounded) / _total(rounded)) ** 0.5,
        )
    return merged


def _check_mergeable(model: "PeftModel") -> None:
    if adapter_owner(model) == "transformers":
        raise ValueError(
            "adapters of model.add_adapter cannot be merged in place; save them by "
            "model.save_pretrained(folder) and merge PeftModel.from_pretrained(base, folder)"
        )
    if not hasattr(model, "merge_and_unload") or not any(True for _ in _tuned(model)):
        raise ValueError(
            f"{type(model).__name__} lacks adapters that can be merged; give a PeftModel, as of "
            "peft.get_peft_model or PeftModel.from_pretrained"
        )
    if merged := next((layer.merged_adapters for _, layer in _tuned(model) if layer.merged), None):
        raise ValueError(
            f"{', '.join(merged)} is merged already, which hides the zeros of the base; call "
            "model.unmerge_adapter() first"
        )
    if lost := lost_zeros(model):
        raise ValueError(f"{describe_lost(lost)}; load the base as it was saved")


def _tuned(model: "PeftModel") -> Iterator[tuple[str, Any]]:
    """Yield the layers with adapters that merge into one weight, by the names they have in the base."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer) and isinstance(
            getattr(module.get_base_layer(), "weight", None), nn.Parameter
        ):
            yield name, module


def _sparse_modules(model: "PeftModel") -> set[nn.Module]:
    """Return the layers whose zeros must stay."""
    targets = every_weight(model)
    kept = set(standing(model, targets))
    return {target.module for target in targets if target.name in kept}


def _try(name: str, layer: Any, sparse: set[nn.Module], adapters: list[str] | None) -> _Merged:
    """Merge the adapters of one layer, measure the effect, and undo the merge."""
    base = layer.get_base_layer()
    with torch.no_grad(), _restored(base):
        before, computed = base.weight.clone(), _computed(base)
        layer.merge(safe_merge=True, adapter_names=adapters)
        try:
            update = (base.weight - before).float()
            zeros = before == 0 if base in sparse else torch.zeros_like(before, dtype=torch.bool)
            filled = (base.weight != 0) & zeros
            rounding = None
            if computed is not None and (merged := _computed(base)) is not None:
                rounding = _squares(merged - computed - update)
            return _Merged(
                name, zeros, int(filled.sum()), _squares(update[filled]), _squares(update), rounding
            )
        finally:
            if layer.merged:
                layer.unmerge()


@contextmanager
def _restored(base: nn.Module) -> Iterator[None]:
    """Restore the parameters of a layer after the block, since adding and subtracting loses the last bits."""
    held = [(parameter, parameter.detach().clone()) for parameter in base.parameters()]
    try:
        yield
    finally:
        for parameter, value in held:
            parameter.data.copy_(value)


def _computed(base: nn.Module) -> Tensor | None:
    """Return the rounded weight that a layer computes with, as it is stored; None if it does not round."""
    if not isinstance(base, FakeQuantLinear | FakeQuantConv1D | FakeQuantEmbedding):
        return None
    if not base.quantization.phase.active:
        return None
    transposed = isinstance(base, Conv1D)
    rounded = base.quantization.weights.simulate(base.weight.t() if transposed else base.weight)
    return (rounded.t() if transposed else rounded).float()


def _squares(values: Tensor) -> float:
    return float(values.double().square().sum())


def _total(layers: Sequence[_Merged]) -> float:
    # An untrained adapter updates nothing; any total gives a share of 0.
    return sum(layer.update for layer in layers) or 1.0


def _share(filled: Sequence[_Merged], layers: Sequence[_Merged]) -> float:
    return sum(layer.cut for layer in filled) / _total(layers)


def _count(filled: Sequence[_Merged]) -> str:
    zeros, total = sum(layer.filled for layer in filled), sum(int(layer.zeros.sum()) for layer in filled)
    return f"{zeros:,} of {total:,} zeros in {len(filled)} layers, such as {filled[0].name}"
