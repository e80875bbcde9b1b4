"""Schedules: the sparsity after each step."""

import dataclasses

import pytest

from hf_sparse.sparsity.schedules import Schedule

PRUNE_OFA = Schedule("cubic", 0.0, 0.9, 0, 50_000, 80_000, 1_000, 100_000)
RAMP = Schedule("cubic", 0.1, 0.9, 10, 50, 80, 10, 100)


@pytest.mark.parametrize(
    ("step", "sparsity"),
    [
        (0, 0.0),
        (1_000, 0.0529272),
        (5_000, 0.2439),
        (10_000, 0.4392),
        (12_500, 0.5203125),
        (20_000, 0.7056),
        (25_000, 0.7875),
        (37_500, 0.8859375),
        (40_000, 0.8928),
    ],
)
def test_the_cubic_ramp_takes_the_published_values(step: int, sparsity: float) -> None:
    assert PRUNE_OFA.sparsity(step) == pytest.approx(sparsity, abs=1e-12)


@pytest.mark.parametrize("step", [50_000, 50_001, 80_000, 100_000, 200_000])
def test_the_final_sparsity_is_exact_from_the_end_of_the_ramp_on(step: int) -> None:
    assert PRUNE_OFA.sparsity(step) == 0.9


@pytest.mark.parametrize(("step", "sparsity"), [(10_000, 0.4148), (25_000, 0.74375), (50_000, 0.85)])
def test_the_cubic_ramp_scales_with_the_final_sparsity(step: int, sparsity: float) -> None:
    schedule = dataclasses.replace(PRUNE_OFA, final=0.85)
    assert schedule.sparsity(step) == pytest.approx(sparsity, abs=1e-12)


def test_a_ramp_may_begin_above_zero() -> None:
    schedule = Schedule("cubic", 0.7, 0.9, 2, 26, 26, 4, 30)
    values = [schedule.sparsity(step) for step in range(2, 27, 4)]
    assert values == pytest.approx([0.7, 0.784259, 0.840741, 0.875, 0.892593, 0.899074, 0.9], abs=1e-6)


def test_a_linear_ramp_is_straight() -> None:
    schedule = Schedule("linear", 0.1, 0.9, 100, 200, 200, 10, 300)
    assert [schedule.sparsity(step) for step in (99, 100, 125, 150, 200)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5, 0.9]
    )


def test_before_it_begins_the_initial_sparsity_holds() -> None:
    assert [RAMP.sparsity(step) for step in (0, 9, 10)] == [0.1, 0.1, 0.1]


def test_one_shot_jumps() -> None:
    schedule = Schedule("one_shot", 0.0, 0.5, 30, 30, 30, 1, 100)
    assert [schedule.sparsity(step) for step in (0, 29, 30, 100)] == [0.0, 0.0, 0.5, 0.5]
    assert [step for step in range(101) if schedule.is_update(step)] == [30]


def test_constant_holds_from_the_start() -> None:
    schedule = Schedule("constant", 0.0, 0.5, 0, 0, 20, 10, 100)
    assert {schedule.sparsity(step) for step in range(101)} == {0.5}
    assert [step for step in range(101) if schedule.is_update(step)] == [0, 10, 20]


@pytest.mark.parametrize("shape", ["cubic", "linear"])
def test_sparsity_never_falls(shape: str) -> None:
    values = [dataclasses.replace(RAMP, shape=shape).sparsity(step) for step in range(101)]
    assert values == sorted(values)
    assert len(set(values)) == 41


def test_masks_are_updated_at_every_interval_until_the_updates_end() -> None:
    updates = [step for step in range(100_001) if PRUNE_OFA.is_update(step)]
    assert updates == list(range(0, 80_001, 1_000))


def test_the_end_of_the_ramp_is_an_update_whatever_the_interval() -> None:
    schedule = Schedule("cubic", 0.0, 0.9, 5, 50, 70, 20, 100)
    assert [step for step in range(101) if schedule.is_update(step)] == [5, 25, 45, 50, 65]


def test_an_update_just_before_the_end_of_the_ramp_is_left_out() -> None:
    schedule = Schedule("cubic", 0.0, 0.9, 5, 48, 90, 20, 100)
    assert [step for step in range(101) if schedule.is_update(step)] == [5, 25, 48, 65, 85]
    assert [schedule.interval_start(step) for step in (5, 24, 25, 45, 47)] == [5, 5, 25, 25, 25]


def test_an_interval_longer_than_the_ramp_still_reaches_the_end() -> None:
    schedule = Schedule("cubic", 0.0, 0.9, 0, 7, 7, 1_000, 10)
    assert [step for step in range(11) if schedule.is_update(step)] == [0, 7]


def test_the_final_sparsity_holds_from_the_end_of_the_ramp_on() -> None:
    assert [RAMP.is_final(step) for step in (0, 49, 50, 100)] == [False, False, True, True]


def test_at_least_one_step_trains_at_the_final_sparsity() -> None:
    assert dataclasses.replace(RAMP, ramp_end=99, update_end=99).is_final(99)
    with pytest.raises(ValueError, match="ramp_end is step 100 of 100, .* move ramp_end to 99 or earlier"):
        dataclasses.replace(RAMP, ramp_end=100, update_end=100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": "step"}, "'step' is unknown; choose one of .*'constant', 'cubic', 'linear', 'one_shot'"),
        ({"final": 1.0}, r"final sparsity is a share in \[0, 1\), got 1.0"),
        ({"final": -0.1}, r"final sparsity is a share in \[0, 1\), got -0.1"),
        ({"final": float("nan")}, r"final sparsity is a share in \[0, 1\), got nan"),
        ({"initial": -0.1}, r"initial sparsity is a share in \[0, 1\), got -0.1"),
        ({"initial": 0.95}, "initial sparsity 0.95 exceeds final sparsity 0.9; sparsity only grows"),
        ({"every": 0}, "every counts steps from 1, got 0"),
        ({"every": -5}, "every counts steps from 1, got -5"),
        ({"begin": 51}, "begins at step 51, after its end at step 50; move begin forward"),
        ({"begin": -1}, "begins at step -1"),
        (
            {"total_steps": 50},
            "ramp_end is step 50 of 50, .*; move ramp_end to 49 or earlier, or train longer",
        ),
        ({"update_end": 49}, r"between ramp_end and the last step, got step 49 outside \[50, 100\]"),
        ({"update_end": 101}, r"got step 101 outside \[50, 100\]"),
    ],
)
def test_a_schedule_that_cannot_be_run_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RAMP, **changes)
