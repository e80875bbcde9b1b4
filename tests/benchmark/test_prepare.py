"""Backends that cannot run are named with their reasons."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hf_sparse.benchmark.backends import BACKENDS, REFERENCE, prepare
from hf_sparse.benchmark.inputs import Job
from hf_sparse.benchmark.latency import Backend, Prepared
from tests.support.tiny import bert


class Scripted(Backend):
    """A backend whose model is made by a function of it."""

    def __init__(
        self,
        name: str,
        make: Callable[[Backend], Prepared],
        errors: tuple[type[Exception], ...] = (),
        own: bool = False,
    ) -> None:
        self.name, self.make, self.errors, self.own = name, make, errors, own

    def prepare(self, job: Job) -> Prepared:
        return self.make(self)


def running(value: float = 1.0) -> Callable[[Backend], Prepared]:
    return lambda backend: Prepared(backend.name, backend.own, lambda: torch.tensor(value), 4)


def failing(error: Exception) -> Callable[[Backend], Prepared]:
    def make(backend: Backend) -> Prepared:
        raise error

    return make


def fails_when_called(backend: Backend) -> Prepared:
    def call() -> torch.Tensor:
        raise OverflowError("too much\nand more")

    return Prepared(backend.name, backend.own, call, 4)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(bert(num_hidden_layers=1), {}, 1, tmp_path)


def test_what_cannot_be_made_or_called_is_named_with_its_reason(job: Job) -> None:
    foreign = (Exception,)
    found = prepare(
        job,
        [
            Scripted("one", running(), own=True),
            Scripted("two", failing(ValueError("is not known; take another")), (ValueError,)),
            Scripted("three", fails_when_called, foreign),
            Scripted("four", failing(KeyError()), foreign),
            Scripted("five", running(5.0)),
        ],
    )
    assert [(one.name, one.own) for one in found.models] == [("one", True), ("five", False)]
    assert found.missing == {"two": "is not known; take another", "three": "too much", "four": "KeyError"}
    assert found.output("five") == 5


def test_faults_of_this_program_are_not_hidden(job: Job) -> None:
    with pytest.raises(TypeError):
        prepare(job, [Scripted("one", failing(TypeError("a fault")), (ValueError,))])


def test_every_backend_has_a_name_of_its_own() -> None:
    names = [backend.name for backend in BACKENDS]
    assert len(set(names)) == len(names) and REFERENCE in names
    assert [backend.name for backend in BACKENDS if backend.own] == ["hf_sparse fuse", "hf_sparse optimize"]
