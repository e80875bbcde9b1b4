"""Backends take turns, and what is timed is one call of each."""

import math

import pytest
import torch
from torch import Tensor

from hf_sparse.benchmark import latency
from hf_sparse.benchmark.latency import Prepared, largest_difference, limited, measure


class Clock:
    """A clock that goes on only when a model is called, and remembers who did."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def model(self, name: str, seconds: float, output: float) -> Prepared:
        def call() -> Tensor:
            self.calls.append(name)
            self.now += seconds
            return torch.tensor([output, 0.0])

        return Prepared(name, False, call, 4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "perf_counter", lambda: made.now)
    return made


def test_models_take_turns_each_after_a_call_that_is_not_timed(clock: Clock) -> None:
    pair = [clock.model("a", 1.0, 1.0), clock.model("b", 0.5, 3.0)]
    found = measure(pair, torch.tensor([1.0, 0.0]), range(3), warm_up=1)
    assert "".join(clock.calls) == "ab" + "aabb" * 3 + "ab"
    assert [one.name for one in found] == ["a", "b"]
    assert [one.ms for one in found] == [(1000.0,) * 3, (500.0,) * 3]
    assert [one.difference for one in found] == [0, 2]


def test_the_largest_difference_tells_wrong_answers() -> None:
    zeros = torch.zeros(2, 2)
    for sign in (1, -1):
        assert largest_difference(zeros, sign * torch.tensor([[0.0, -3.0], [2.0, 0.0]])) == 3
    assert largest_difference(torch.full((2, 2), math.nan), zeros) == math.inf
    assert largest_difference(torch.full((2, 2), math.inf), zeros) == math.inf
    assert largest_difference(torch.zeros(1, 2), zeros) == math.inf


def test_threads_are_limited_and_then_as_before() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), limited(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
