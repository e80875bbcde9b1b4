"""Queries, keys and values as the layers of a model compute them, by hooks that do not stay."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

KINDS = ("queries", "keys", "values")
# What models call their three projections.
_NAMES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
# Those that compute all three at once.
_FUSED = ("c_attn", "query_key_value", "qkv_proj", "qkv", "Wqkv", "in_proj")

Projections = tuple[nn.Linear, nn.Linear, nn.Linear]


def find_projections(model: nn.Module, layers: int) -> list[tuple[nn.Module, Projections]]:
    """Return every attention module of a model with its projections of queries, keys and values.

    Raises `ValueError` unless they are as many as the layers, or fewer, each used by as many layers.
    """
    found = []
    for module in model.modules():
        for names in _NAMES:
            projections = tuple(getattr(module, name, None) for name in names)
            # An adapter has the Linear that it adds to inside, and its own output is the sum.
            linears = (getattr(projection, "base_layer", projection) for projection in projections)
            if all(isinstance(linear, nn.Linear) for linear in linears):
                found.append((module, projections))
    if not found:
        raise ValueError(f"relations needs projections of queries, keys and values, and {_why_none(model)}")
    if layers % len(found):
        raise ValueError(
            f"{type(model).__name__} has {len(found)} attention modules for {layers} layers, so it is not "
            "known which belongs to which; use hidden"
        )
    return found


def _why_none(model: nn.Module) -> str:
    fused = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _FUSED]
    if fused:
        return (
            f"{type(model).__name__} computes all three at once, in {fused[0]}; use hidden, or attention "
            "where the heads are as many"
        )
    names = " or ".join(", ".join(names) for names in _NAMES)
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
