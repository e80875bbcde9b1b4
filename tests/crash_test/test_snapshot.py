"""The first difference between two states of a run."""

from pathlib import Path

import pytest
import torch

from hf_sparse.crash_test.snapshot import KINDS, first_difference, take
from tests.support.runs import distil_hidden, move, quantize, revive

TWO = torch.ones(2)


def state(**kinds: dict) -> dict[str, dict]:
    return {kind: {} for kind in KINDS.values()} | kinds


def test_equal_states_differ_nowhere() -> None:
    one = state(weights={"a": torch.tensor([1.0, torch.nan])}, log={"loss": float("nan"), "steps": 3})
    other = state(weights={"a": torch.tensor([1.0, torch.nan])}, log={"loss": float("nan"), "steps": 3})
    assert first_difference(one, other) is None


def test_a_difference_names_kind_place_and_both_values() -> None:
    one = state(weights={"a": torch.zeros(2, 3), "b": torch.zeros(1)}, log={"loss": 1.0})
    other = state(weights={"a": torch.zeros(2, 3), "b": torch.ones(1)}, log={"loss": 2.0})
    other["weights"]["a"][1, 2] = 0.5
    found = first_difference(one, other)
    assert (found.kind, found.name, found.position, found.others) == ("weights", "a", (1, 2), 2)
    assert str(found) == "weights: a[1, 2] is 0.0 in the straight run, 0.5 in the resumed one"


@pytest.mark.parametrize(
    ("ours", "theirs", "straight", "resumed"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), 0.0, -0.0),
        (torch.tensor([True]), torch.tensor([False]), True, False),
        (TWO.bfloat16(), TWO, "a tensor of [2], torch.bfloat16", "a tensor of [2], torch.float32"),
        (TWO, None, "a tensor of [2], torch.float32", None),
        (1, 1.0, 1, 1.0),
    ],
)
def test_values_are_compared_by_bits_and_types(ours, theirs, straight, resumed) -> None:
    found = first_difference(state(masks={"a": ours}), state(masks={} if theirs is None else {"a": theirs}))
    assert (repr(found.straight), repr(found.resumed)) == (repr(straight), repr(resumed))


def test_causes_come_before_effects() -> None:
    one = state(weights={"a": 1}, random={"torch": 1}, log={"loss": 1.0})
    other = state(weights={"a": 2}, random={"torch": 2}, log={"loss": 2.0})
    assert first_difference(one, other).kind == "random states"


@pytest.mark.parametrize(
    ("run", "kinds"),
    [
        (revive, set()),
        (quantize, {"ranges"}),
        (distil_hidden, {"learned", "method"}),
        (move, {"learned", "method"}),
    ],
)
def test_a_state_holds_all_that_parts_keep(run, kinds: set[str], tmp_path: Path) -> None:
    trainer = run(tmp_path)
    trainer.train()
    found = take(trainer)
    always = {"random", "rate", "masks", "weights", "optimizer", "log"}
    assert {kind for kind, values in found.items() if values} >= always | kinds
    assert first_difference(found, take(trainer)) is None
    assert found["log"]["steps"] == 12
    assert any(key.endswith("query.weight/exp_avg") for key in found["optimizer"])
