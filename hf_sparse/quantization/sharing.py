"""Layers that read one input, query, key and value: rounded by the first, taken over by the others."""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Readers:
    """Layers that probably read one input; those that do not just find another one."""

    count: int


@dataclass(eq=False)
class Rounded:
    """An input of some readers, as it was when it was rounded; the outcome, and the range it took."""

    readers: Readers
    source: Tensor
    version: int
    outcome: Tensor
    low: Tensor
    high: Tensor
    left: int

    def covers(self, low: Tensor, high: Tensor) -> bool:
        """Say whether a layer with this range would round to the same.

        Where asking would wait for a device it is taken for granted: ranges of readers follow each other.
        """
        if low.device.type != "cpu":
            return True
        return low.item() == self.low.item() and high.item() == self.high.item()


class _Last(threading.local):
    """What this thread rounded last: on the modules another thread could put its own there."""

    rounded: Rounded | None = None


_LAST = _Last()


@torch.compiler.disable
def take(readers: Readers | None, source: Tensor) -> Rounded | None:
    """Return the input that the layer before has rounded, None if it was another one.

    What other layers rounded is let go, or it would hold the graph of a forward pass until the next one.
    """
    found = _LAST.rounded
    if found is None:
        return None
    fits = found.readers is readers and found.source is source and found.version == _version(source)
    found.left -= 1
    if not fits or not found.left:
        _LAST.rounded = None
    return found if fits else None


@torch.compiler.disable
def give(readers: Readers | None, source: Tensor, outcome: Tensor, low: Tensor, high: Tensor) -> None:
    """Keep an input that was rounded, if other layers read it."""
    if readers is not None:
        _LAST.rounded = Rounded(readers, source, _version(source), outcome, low, high, readers.count - 1)


def _version(values: Tensor) -> int:
    """Return how often a tensor was written to; under inference mode nobody counts."""
    return 0 if values.is_inference() else values._version
