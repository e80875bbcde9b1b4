"""The moments of kills are drawn from a seed."""

import pytest

from hf_sparse.crash_test.moments import SAVE, STEP, UPDATE, Kill, draw_kills

PLACES = {STEP: range(1, 25), UPDATE: range(1, 13), SAVE: range(3, 25, 3)}


def test_a_seed_draws_the_same_kills() -> None:
    one, again, other = (draw_kills(5, seed, 24, PLACES, 1) for seed in (3, 3, 4))
    assert one == again != other
    assert [Kill.from_dict(kill.as_dict()) for kill in one] == one


def test_kills_fall_into_different_steps_that_have_the_place() -> None:
    kills = draw_kills(12, 0, 24, PLACES, 1)
    steps = [kill.moment.step for kill in kills]
    assert steps == sorted(set(steps))
    assert all(kill.moment.step in PLACES[kill.moment.where] for kill in kills)
    assert {kill.moment.where for kill in kills} == {STEP, UPDATE, SAVE}
    assert {(kill.rank, kill.everybody) for kill in kills} == {(0, False)}


def test_of_several_processes_one_dies_or_all() -> None:
    kills = draw_kills(24, 0, 24, PLACES, 2)
    assert {kill.rank for kill in kills} == {0, 1} and {kill.everybody for kill in kills} == {True, False}


def test_a_run_without_mask_updates_dies_elsewhere() -> None:
    kills = draw_kills(6, 0, 24, PLACES | {UPDATE: []}, 1)
    assert {kill.moment.where for kill in kills} == {STEP, SAVE}


@pytest.mark.parametrize("count", [0, 25])
def test_more_kills_than_steps_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"a run of 24 steps is killed between 1 and 24 times, got {count}"):
        draw_kills(count, 0, 24, PLACES, 1)
