"""How long contenders take for the same inputs, measured in turns in one process."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from hf_sparse.benchmark.field import Contender
from hf_sparse.report.latency import LatencyRow


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a contender took, each call in seconds, and by how much its first output differs at most."""

    contender: Contender
    seconds: tuple[float, ...]
    difference: float


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Let PyTorch compute on so many threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    contenders: Sequence[Contender], reference: Tensor, rounds: Iterable[int], warm_up: int = 2
) -> list[Measurement]:
    """Time one call of each contender in every round; compare outputs with the reference.

    Before a call that is timed comes one that is not, for the caches of the processor to hold what this
    contender reads and not what the one before it did, and for that one's threads to be done with waiting.
    `warm_up` more of them come first of all.
    """
    for contender in contenders:
        for _ in range(warm_up):
            contender.running.call()
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in rounds:
        for contender, taken in zip(contenders, seconds, strict=True):
            contender.running.call()
            begin = perf_counter()
            contender.running.call()
            taken.append(perf_counter() - begin)
    return [
        Measurement(contender, tuple(taken), largest_difference(contender.running.call(), reference))
        for contender, taken in zip(contenders, seconds, strict=True)
    ]


def rows_of(measured: Iterable[Measurement]) -> tuple[LatencyRow, ...]:
    """Return measurements as reports show them."""
    return tuple(
        LatencyRow(
            one.contender.name,
            one.contender.ours,
            one.seconds,
            one.contender.running.weight_bytes,
            one.difference,
            one.contender.running.note,
        )
        for one in measured
    )


def largest_difference(output: Tensor, reference: Tensor) -> float:
    """Return the largest difference of two outputs, infinity where one is not finite or has another shape."""
    if output.shape != reference.shape:
        return float("inf")
    difference = (output.double() - reference.double()).abs().max().item()
    return difference if difference == difference else float("inf")
