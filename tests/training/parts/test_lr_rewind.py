"""Learning-rate rewinding: published values, and the same rule for other schedules."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, StepLR
from transformers import SchedulerType, TrainingArguments, get_scheduler

from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.training.parts.lr_rewind import check_rewindable, rewind, rewound_step

PRUNE_OFA = Schedule("cubic", 0.0, 0.9, 0, 50_000, 80_000, 1_000, 100_000)
# 100 steps, of which 20 to 59 prune: 60 remain for the decay.
LATE = Schedule("cubic", 0.0, 0.9, 20, 60, 80, 10, 100)
WARMUP = 10

Arguments = Callable[..., TrainingArguments]


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    def make(kind: str, warmup: int = WARMUP, **others: object) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(tmp_path), lr_scheduler_type=kind, warmup_steps=warmup, report_to=[], **others
        )

    return make


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)]
    return torch.optim.SGD(groups, lr=(rates or (1.0,))[0])


def stock(args: TrainingArguments, total: int, on: torch.optim.Optimizer | None = None) -> LambdaLR:
    """Return the scheduler that Trainer makes from the arguments."""
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer=on or optimizer(),
        num_warmup_steps=args.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )


def rewound(args: TrainingArguments, schedule: Schedule) -> Callable[[int], float]:
    scheduler = stock(args, schedule.total_steps)
    rewind(scheduler, schedule, args)
    return scheduler.lr_lambdas[0]


def test_the_rate_goes_on_falling_where_an_update_is_left_out() -> None:
    schedule = Schedule("cubic", 0.0, 0.9, 5, 48, 48, 20, 100)
    assert [rewound_step(step, schedule) for step in (5, 24, 25, 44, 45, 47, 48)] == [5, 24, 5, 24, 25, 27, 5]


@pytest.mark.parametrize(
    ("step", "multiplier"),
    [
        (0, 0),
        (500, 0.5),
        (999, 0.999),
        (1_000, 1.020408),
        (1_999, 1.00002),
        (2_000, 1.020408),
        (49_000, 1.020408),
        (49_999, 1.00002),
        (50_000, 1.020408),
        (60_000, 0.816327),
        (75_000, 0.510204),
        (99_999, 1 / 49_000),
        (100_000, 0),
    ],
)
def test_the_linear_schedule_takes_the_published_values(
    step: int, multiplier: float, arguments: Arguments
) -> None:
    at = rewound(arguments("linear", warmup=1_000), PRUNE_OFA)
    assert at(step) == pytest.approx(multiplier, abs=1e-6)


def test_the_linear_schedule_falls_between_mask_updates(arguments: Arguments) -> None:
    at = rewound(arguments("linear", warmup=1_000), PRUNE_OFA)
    for start, end in ((1_000, 1_999), (30_000, 30_999), (50_000, 100_000)):
        cycle = [at(step) for step in range(start, end + 1)]
        assert cycle == sorted(cycle, reverse=True)
        assert len(set(cycle)) == len(cycle)


def test_the_warm_up_goes_on_inside_the_ramp(arguments: Arguments) -> None:
    at = rewound(arguments("linear", warmup=2_500), PRUNE_OFA)
    assert [at(step) for step in (0, 1_000, 1_250, 2_499)] == [0, 0.4, 0.5, 2_499 / 2_500]
    assert at(2_500) == pytest.approx((50_000 - 500) / 47_500)


def test_the_linear_schedule_decays_before_a_late_ramp_too(arguments: Arguments) -> None:
    at = rewound(arguments("linear"), LATE)
    expected = {5: 0.5, 10: 50, 19: 41, 20: 40, 29: 31, 30: 40, 59: 31, 60: 40, 80: 20, 100: 0}
    assert {step: at(step) for step in expected} == pytest.approx(
        {step: value if step < WARMUP else value / 50 for step, value in expected.items()}
    )


def test_no_rate_is_negative_past_the_end(arguments: Arguments) -> None:
    assert rewound(arguments("linear"), LATE)(150) == 0


def test_without_warm_up_the_first_step_has_the_full_rate(arguments: Arguments) -> None:
    at = rewound(arguments("linear", warmup=0), PRUNE_OFA)
    assert at(0) == at(1_000) == at(50_000) == 1.0


@pytest.mark.parametrize(
    ("step", "counted"),
    [(0, 0), (19, 19), (20, 20), (29, 29), (30, 20), (45, 25), (59, 29), (60, 20), (61, 21), (100, 60)],
)
def test_the_count_starts_anew_at_every_mask_update_of_the_ramp(step: int, counted: int) -> None:
    assert rewound_step(step, LATE) == counted


def test_a_ramp_that_ends_between_updates_ends_the_count_too() -> None:
    schedule = Schedule("cubic", 0.0, 0.9, 20, 45, 45, 10, 100)
    assert [rewound_step(step, schedule) for step in (40, 44, 45, 46, 100)] == [20, 24, 20, 21, 75]


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / 50)),
    "polynomial": lambda step: (1 - 1e-7) * (1 - (step - WARMUP) / 50) + 1e-7,
    "inverse_sqrt": lambda step: 1 / math.sqrt(step / WARMUP),
    "constant_with_warmup": lambda step: 1.0,
}


@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("schedule", [LATE, Schedule("cubic", 0.0, 0.9, 0, 40, 80, 20, 100)])
def test_other_schedules_decay_over_the_steps_outside_the_ramp(
    kind: str, schedule: Schedule, arguments: Arguments
) -> None:
    at = rewound(arguments(kind), schedule)
    assert [at(step) for step in range(WARMUP)] == pytest.approx([step / WARMUP for step in range(WARMUP)])
    expected = [DECAYS[kind](max(WARMUP, rewound_step(step, schedule))) for step in range(WARMUP, 101)]
    assert [at(step) for step in range(WARMUP, 101)] == pytest.approx(expected)


@pytest.mark.parametrize("kind", DECAYS)
def test_other_schedules_never_go_back_into_their_warm_up(kind: str, arguments: Arguments) -> None:
    at = rewound(arguments(kind), Schedule("cubic", 0.0, 0.9, 0, 50, 80, 5, 100))
    assert [at(step) for step in range(WARMUP, 51)] == [1.0] * 41


def test_options_of_a_schedule_are_kept(arguments: Arguments) -> None:
    args = arguments("cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 0.1})
    scheduler = stock(args, 100, optimizer(0.5, 0.25))
    rewind(scheduler, LATE, args)
    assert [at(100) for at in scheduler.lr_lambdas] == pytest.approx([0.2, 0.2])
    assert [at(WARMUP) for at in scheduler.lr_lambdas] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["linear", *DECAYS])
def test_the_optimizer_runs_at_the_rewound_rates(kind: str, arguments: Arguments) -> None:
    args, subject = arguments(kind), optimizer(2.0, 0.5)
    scheduler = stock(args, 100, subject)
    rewind(scheduler, LATE, args)
    first, second = scheduler.lr_lambdas
    for step in range(101):
        rates = [group["lr"] for group in subject.param_groups]
        assert rates == pytest.approx([2.0 * first(step), 0.5 * second(step)])
        subject.step()
        scheduler.step()


def test_a_resumed_scheduler_goes_on_at_the_same_rates(arguments: Arguments) -> None:
    args, subject = arguments("linear"), optimizer()
    first = stock(args, 100, subject)
    rewind(first, LATE, args)
    for _ in range(37):
        subject.step()
        first.step()
    second = stock(args, 100)
    rewind(second, LATE, args)
    second.load_state_dict(first.state_dict())
    assert second.get_last_lr() == first.get_last_lr()
    for _ in range(30):
        for scheduler in (first, second):
            scheduler.optimizer.step()
            scheduler.step()
        assert second.get_last_lr() == first.get_last_lr()


@pytest.mark.parametrize("kind", ["linear", *DECAYS])
def test_other_users_of_the_stock_schedule_are_left_alone(kind: str, arguments: Arguments) -> None:
    args = arguments(kind)
    before = [stock(args, 100).lr_lambdas[0](step) for step in range(101)]
    rewound(args, LATE)
    assert [stock(args, 100).lr_lambdas[0](step) for step in range(101)] == before


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_follow_a_metric_are_refused(kind: str) -> None:
    for given in (kind, SchedulerType(kind)):
        with pytest.raises(ValueError, match=f"function of the step, and {kind} follows a metric; choose"):
            check_rewindable(given)
        with pytest.raises(ValueError, match="or set sparsity.lr_rewind=false"):
            check_rewindable(given)


@pytest.mark.parametrize("kind", ["linear", *DECAYS, "constant", "cosine_with_min_lr"])
def test_functions_of_the_step_are_accepted(kind: str) -> None:
    assert check_rewindable(SchedulerType(kind)) is None


def test_a_scheduler_that_is_not_made_of_functions_is_refused(arguments: Arguments) -> None:
    with pytest.raises(ValueError, match=r"LambdaLR\), got StepLR; choose another lr_scheduler_type, or set"):
        rewind(StepLR(optimizer(), 10), LATE, arguments("linear"))


@pytest.mark.parametrize("warmup", [60, 80])
def test_a_warm_up_longer_than_the_steps_outside_the_ramp_is_refused(
    warmup: int, arguments: Arguments
) -> None:
    args = arguments("linear", warmup=warmup)
    with pytest.raises(ValueError, match=f"leaves 60 steps outside .* {warmup} warm-up steps; shorten the"):
        rewind(stock(args, 100), LATE, args)
