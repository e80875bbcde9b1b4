"""Who competes, and why others do not."""

import pytest
import torch

from hf_sparse.benchmark.field import Maker, Running, prepare


def running(value: float = 1.0) -> Running:
    return Running(lambda: torch.tensor(value), 4)


def failing(error: Exception) -> Running:
    raise error


def fails_when_called() -> Running:
    return Running(lambda: failing(OverflowError("too much\nand more")), 4)


def test_what_cannot_be_made_or_called_is_named_with_its_reason() -> None:
    foreign = (Exception,)
    found = prepare(
        [
            Maker("one", running, ours=True),
            Maker("two", lambda: failing(ValueError("is not known; take another")), (ValueError,)),
            Maker("three", fails_when_called, foreign),
            Maker("four", lambda: failing(KeyError()), foreign),
            Maker("five", lambda: running(5.0)),
        ]
    )
    assert [(one.name, one.ours) for one in found.contenders] == [("one", True), ("five", False)]
    assert found.missing == {"two": "is not known; take another", "three": "too much", "four": "KeyError"}
    assert found.output("five") == 5


def test_faults_of_this_program_are_not_hidden() -> None:
    with pytest.raises(TypeError):
        prepare([Maker("one", lambda: failing(TypeError("a fault")), (ValueError,))])
