"""Round an input once for all layers that read it, such as query, key and value."""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Readers:
    """Some layers that probably read the same input; a layer that reads another one rounds it itself."""

    count: int


@dataclass(eq=False)
class Rounded:
    """An input of some readers, its version when it was rounded, the outcome, and the range that was used."""

    readers: Readers
    source: Tensor
    version: int
    outcome: Tensor
    low: Tensor
    high: Tensor
    left: int

    def covers(self, low: Tensor, high: Tensor) -> bool:
        """Return whether a layer with this range would round to the same outcome.

        On a device other than the CPU, where comparing would wait, assume so: ranges of readers move alike.
        """
        if low.device.type != "cpu":
            return True
        return low.item() == self.low.item() and high.item() == self.high.item()


class _Last(threading.local):
    """The input that this thread rounded last; on a module, threads would overwrite each other's."""

    rounded: Rounded | None = None


_LAST = _Last()


def take(readers: Readers | None, source: Tensor) -> Rounded | None:
    """Return this input as the layer before rounded it; None if that layer read another input.

    The other input is dropped, since it would keep the graph of a forward pass alive until the next one.
    Nothing is shared where a compiler traces: it sees by itself what is computed twice.
    """
    if torch.compiler.is_compiling():
        return None
    found = _LAST.rounded
    if found is None:
        return None
    fits = found.readers is readers and found.source is source and found.version == _version(source)
    found.left -= 1
    if not fits or not found.left:
        _LAST.rounded = None
    return found if fits else None


def give(readers: Readers | None, source: Tensor, outcome: Tensor, low: Tensor, high: Tensor) -> None:
    """Keep an input that was rounded if other layers read it."""
    if readers is not None and not torch.compiler.is_compiling():
        _LAST.rounded = Rounded(readers, source, _version(source), outcome, low, high, readers.count - 1)


def _version(values: Tensor) -> int:
    """Return how often a tensor was written to; always 0 under inference mode, which does not count."""
    return 0 if values.is_inference() else values._version
