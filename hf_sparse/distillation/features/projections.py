"""Read the queries, keys and values of attention layers, by hooks that are removed afterwards."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn

from hf_sparse.architectures import FUSED_PROJECTIONS, PROJECTIONS

KINDS = ("queries", "keys", "values")

Projections = tuple[nn.Linear, nn.Linear, nn.Linear]


def find_projections(model: nn.Module, layers: int) -> list[tuple[nn.Module, Projections]]:
    """Return the attention modules of a model, each with its projections of queries, keys and values.

    Raises `ValueError` if none is found, or if their number does not divide `layers`; a module that several
    layers share counts once.
    """
    found: list[tuple[nn.Module, Projections]] = []
    for module in model.modules():
        for names in PROJECTIONS:
            queries, keys, values = (getattr(module, name, None) for name in names)
            if _is_linear(queries) and _is_linear(keys) and _is_linear(values):
                found.append((module, (queries, keys, values)))
    if not found:
        raise ValueError(f"relations needs projections of queries, keys and values, and {_why_none(model)}")
    if layers % len(found):
        raise ValueError(
            f"{type(model).__name__} has {len(found)} attention modules for {layers} layers, so which "
            "belongs to which layer is unknown; use hidden"
        )
    return found


def _is_linear(module: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Return whether a module is a Linear or an adapter around one, which has the same attributes."""
    return isinstance(module, nn.Linear) or isinstance(getattr(module, "base_layer", None), nn.Linear)


def _why_none(model: nn.Module) -> str:
    fused = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in FUSED_PROJECTIONS]
    if fused:
        return (
            f"{type(model).__name__} computes all three at once, in {fused[0]}; use hidden, or attention "
            "if both models have the same number of heads"
        )
    names = " or ".join(", ".join(names) for names in PROJECTIONS)
    return f"{type(model).__name__} lacks Linears named {names}; use hidden"


@contextmanager
def recorded(
    model: nn.Module, layers: int, wanted: Collection[int]
) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Record queries, keys and values of the wanted layers during forward passes inside the block.

    The mapping is filled as the model runs: layer (from 1) -> kind -> output of the projection, usually
    (batch, length, width). The hooks are removed when the block ends.
    """
    vectors: dict[int, dict[str, Tensor]] = {}
    entered = 0

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal entered
        entered += 1

    def keep(kind: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            # Keep the first call in a layer: DeBERTa projects relative positions by the same modules later.
            if entered in wanted:
                vectors.setdefault(entered, {}).setdefault(kind, output)

        return hook

    handles = []
    try:
        for module, projections in find_projections(model, layers):
            handles.append(module.register_forward_pre_hook(enter))
            for kind, projection in zip(KINDS, projections, strict=True):
                handles.append(projection.register_forward_hook(keep(kind)))
        yield vectors
    finally:
        for handle in handles:
            handle.remove()
