"""Queries, keys and values as the layers of a model compute them, by hooks that do not stay."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hf_sparse.architectures import FUSED_PROJECTIONS, PROJECTIONS

KINDS = ("queries", "keys", "values")

Projections = tuple[nn.Linear, nn.Linear, nn.Linear]


def find_projections(model: nn.Module, layers: int) -> list[tuple[nn.Module, Projections]]:
    """Return every attention module of a model with its projections of queries, keys and values.

    Raises `ValueError` unless they are as many as the layers, or fewer, each used by as many layers.
    """
    found = []
    for module in model.modules():
        for names in PROJECTIONS:
            projections = tuple(getattr(module, name, None) for name in names)
            if all(map(_is_linear, projections)):
                found.append((module, projections))
    if not found:
        raise ValueError(f"relations needs projections of queries, keys and values, and {_why_none(model)}")
    if layers % len(found):
        raise ValueError(
            f"{type(model).__name__} has {len(found)} attention modules for {layers} layers, so it is not "
            "known which belongs to which; use hidden"
        )
    return found


def _is_linear(module: nn.Module | None) -> bool:
    """Say whether a module is a Linear, as it is or with an adapter, whose output is then that of both."""
    return isinstance(module, nn.Linear) or isinstance(getattr(module, "base_layer", None), nn.Linear)


def _why_none(model: nn.Module) -> str:
    fused = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in FUSED_PROJECTIONS]
    if fused:
        return (
            f"{type(model).__name__} computes all three at once, in {fused[0]}; use hidden, or attention "
            "where the heads are as many"
        )
    names = " or ".join(", ".join(names) for names in PROJECTIONS)
    return f"{type(model).__name__} has no Linears named {names}; use hidden"


@contextmanager
def recorded(
    model: nn.Module, layers: int, wanted: Collection[int]
) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Fill a mapping with the vectors of the wanted layers, counted from 1, by kind, as the block runs.

    Each is (batch, length, width), as its projection gives it. On leaving, the model is as it was before.
    """
    vectors: dict[int, dict[str, Tensor]] = {}
    entered = 0

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal entered
        entered += 1

    def keep(kind: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            # The first call in a layer: DeBERTa projects its relative positions by the same modules later.
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
