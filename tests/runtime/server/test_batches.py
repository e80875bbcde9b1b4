"""Texts of many callers are answered in batches, each caller by the answers to its own texts."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hf_sparse.runtime.server.batches import Batches, Overloaded, TooLarge


class Model:
    """Answers a text by its capitals, when it may; keeps the batches that it got."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.may = threading.Event(), threading.Event()

    def __call__(self, texts: list[str]) -> list[str]:
        self.batches.append(texts)
        self.begun.set()
        assert self.may.wait(30)
        if "bad" in texts:
            raise KeyError("bad")
        return [text.upper() for text in texts]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batches(model: Model) -> Iterator[Batches[str]]:
    made = Batches(model, most=3, waiting=5)
    yield made
    model.may.set()
    made.close()


def first(batches: Batches[str], model: Model) -> Future[str]:
    """Submit a text, and wait until the model computes it."""
    (future,) = batches.submit(["a"])
    assert model.begun.wait(30)
    return future


def test_what_waits_is_the_next_batch_and_no_larger_than_may_be(batches: Batches[str], model: Model) -> None:
    futures = [first(batches, model)]
    futures += [*batches.submit(["b", "c"]), *batches.submit(["d", "e"])]
    model.may.set()
    assert [future.result(30) for future in futures] == list("ABCDE")
    assert model.batches == [["a"], ["b", "c", "d"], ["e"]]


def test_callers_get_the_answers_to_their_own_texts(batches: Batches[str], model: Model) -> None:
    model.may.set()

    def ask(number: int) -> bool:
        text = f"t{number}"
        while True:
            try:
                return [future.result(30) for future in batches.submit([text, "x"])] == [text.upper(), "X"]
            except Overloaded:
                continue

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(200)))


def test_requests_beyond_the_limits_are_refused(batches: Batches[str], model: Model) -> None:
    with pytest.raises(TooLarge, match="6 texts are more than the 5 of the largest request; send fewer"):
        batches.submit(["a"] * 6)
    first(batches, model)
    waiting = batches.submit(["b"] * 4)
    with pytest.raises(Overloaded, match="4 of at most 5 texts wait; try again later"):
        batches.submit(["c", "d"])
    model.may.set()
    assert [future.result(30) for future in waiting] == ["B"] * 4


def test_a_text_that_fails_fails_alone(batches: Batches[str], model: Model) -> None:
    first(batches, model)
    good, bad, other = batches.submit(["b", "bad", "c"])
    model.may.set()
    assert good.result(30) == "B" and other.result(30) == "C"
    assert isinstance(bad.exception(30), KeyError)
    # The thread goes on.
    assert batches.submit(["d"])[0].result(30) == "D"


def test_an_answer_too_few_is_an_error_and_moves_none_to_another_text() -> None:
    begun, may = threading.Event(), threading.Event()

    def answer(texts: list[str]) -> list[str]:
        begun.set()
        assert may.wait(30)
        return [text.upper() for text in texts if text != "lost"]

    made = Batches(answer, most=3, waiting=5)
    futures = made.submit(["a"])
    assert begun.wait(30)
    futures += made.submit(["lost", "b", "c"])
    may.set()
    assert isinstance(futures.pop(1).exception(30), ValueError)
    assert [future.result(30) for future in futures] == ["A", "B", "C"]
    made.close()


def test_what_nobody_waits_for_is_not_computed(batches: Batches[str], model: Model) -> None:
    first(batches, model)
    gone, kept = batches.submit(["b", "c"])
    assert gone.cancel()
    model.may.set()
    assert kept.result(30) == "C" and model.batches == [["a"], ["c"]]


def test_what_waits_at_the_end_is_still_answered(batches: Batches[str], model: Model) -> None:
    first(batches, model)
    waiting = batches.submit(["b", "c"])
    model.may.set()
    batches.close()
    assert [future.result(0) for future in waiting] == ["B", "C"]
    with pytest.raises(Overloaded, match="about to end"):
        batches.submit(["d"])
