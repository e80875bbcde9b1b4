"""The interface of backends, and their latencies for the same inputs, measured in turns in one process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from hf_sparse.benchmark.inputs import Job
from hf_sparse.runs.latency import LatencyRow


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model that a backend is ready to run.

    `call` computes its first output for the inputs of the benchmark. `own` is true for the runtimes of this
    package. `weight_bytes` is the size of its weights as they are held, embeddings included; `note` says what
    else a reader of the latency should know.
    """

    name: str
    own: bool
    call: Callable[[], Tensor]
    weight_bytes: int
    note: str = ""


class Backend(ABC):
    """One way to run a model, listed in `BACKENDS` under its name.

    `errors` are the exceptions by which `prepare`, or the first call, says that this backend cannot run the
    model here. Those of other software may be of any class; others are faults of this package.
    """

    name: str
    own = False
    errors: tuple[type[Exception], ...] = (Exception,)

    @abstractmethod
    def prepare(self, job: Job) -> Prepared:
        """Make the model ready to run; raise one of `errors` with the reason if that is impossible."""


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Limit PyTorch to this number of threads, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    models: Sequence[Prepared], reference: Tensor, rounds: Iterable[int], warm_up: int = 2
) -> tuple[LatencyRow, ...]:
    """Time one call of each model in every round; compare the outputs with the reference.

    An untimed call precedes every timed one: it fills the processor's caches with the weights of this model,
    and lets threads of the model before it come to rest. Each model first makes `warm_up` calls.
    """
    for model in models:
        for _ in range(warm_up):
            model.call()
    seconds: list[list[float]] = [[] for _ in models]
    for _ in rounds:
        for model, taken in zip(models, seconds, strict=True):
            model.call()
            begin = perf_counter()
            model.call()
            taken.append(perf_counter() - begin)
    return tuple(
        LatencyRow.measured(
            model.name,
            model.own,
            taken,
            model.weight_bytes,
            largest_difference(model.call(), reference),
            model.note,
        )
        for model, taken in zip(models, seconds, strict=True)
    )


def largest_difference(output: Tensor, reference: Tensor) -> float:
    """Return the largest absolute difference, infinity where one is not finite or shapes differ."""
    if output.shape != reference.shape:
        return float("inf")
    difference = (output.double() - reference.double()).abs().max().item()
    return difference if difference == difference else float("inf")
