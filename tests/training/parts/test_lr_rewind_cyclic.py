"""A learning rate that restarts at every mask update."""

from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from hf_sparse import SparseTrainer
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.training.parts.lr_rewind import LOWEST, rewind
from tests.support.tiny import arguments, bert, pruning, sentences

WARMUP, TOTAL = 4, 100
SCHEDULE = Schedule("cubic", 0.7, 0.9, 20, 65, 65, 10, TOTAL)
# Before the ramp, its five cycles, of which the last is cut short, and what is left after it.
STARTS, ENDS = [4, 30, 40, 50, 60, 65], [20, 40, 50, 60, 65, 100]


def multipliers(folder: Path, schedule: Schedule, warmup: int = WARMUP) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    args = arguments(folder, warmup_steps=warmup)
    scheduler = get_scheduler(
        "linear", optimizer=optimizer, num_warmup_steps=warmup, num_training_steps=TOTAL
    )
    assert isinstance(scheduler, LambdaLR)
    rewind(scheduler, schedule, args, cyclic=True)
    return [scheduler.lr_lambdas[0](step) for step in range(TOTAL + 1)]


def test_the_rate_falls_to_a_tenth_and_restarts_at_every_update(tmp_path: Path) -> None:
    rates = multipliers(tmp_path, SCHEDULE)
    assert rates[:WARMUP] == [0, 0.25, 0.5, 0.75]
    assert [rates[step] for step in (4, 20, 30, 40, 50, 60, 65)] == [1.0] * 7
    assert rates[TOTAL] == pytest.approx(LOWEST)
    for step in range(WARMUP, TOTAL):
        restarts = step + 1 in {20, 30, 40, 50, 60, 65}
        assert (rates[step + 1] > rates[step]) == restarts, step
    for end in (20, 30, 40, 50, 60, 65):
        assert rates[end - 1] < 0.35


def test_the_first_figures_of_a_cycle_are_a_straight_line(tmp_path: Path) -> None:
    rates = multipliers(tmp_path, SCHEDULE)
    assert rates[30:34] == pytest.approx([1.0, 0.91, 0.82, 0.73])


def test_a_warm_up_that_reaches_into_the_ramp_delays_the_first_restart(tmp_path: Path) -> None:
    rates = multipliers(tmp_path, SCHEDULE, warmup=25)
    assert rates[24] == 24 / 25 and rates[25] == 1.0 and rates[29] < 0.5 and rates[30] == 1.0


def test_a_training_run_uses_it(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        model=bert(),
        args=arguments(tmp_path, max_steps=12),
        train_dataset=sentences(),
        recipe=pruning("sparsity.lr_rewind=cyclic", "sparsity.schedule.every=3"),
    )
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    # Logged is the rate of the step itself: restarts after 3, at the ramp's end after 6.
    expected = [1, 0.7, 0.4, 1, 0.7, 0.4, 1, 0.85, 0.7, 0.55, 0.4, 0.25]
    assert [rate / 1e-3 for rate in rates] == pytest.approx(expected)


def test_with_revival_the_rate_restarts_at_the_updates_after_the_ramp_too(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        model=bert(),
        args=arguments(tmp_path, max_steps=12),
        train_dataset=sentences(),
        recipe=pruning("sparsity.lr_rewind=cyclic", "sparsity.schedule.every=3", "sparsity.revive=true"),
    )
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    expected = [1, 0.7, 0.4, 1, 0.7, 0.4, 1, 0.7, 0.4, 1, 0.7, 0.4]
    assert [rate / 1e-3 for rate in rates] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_ramp_reaches_the_peak(tmp_path: Path) -> None:
    rates = multipliers(tmp_path, SCHEDULE, warmup=80)
    assert rates[79] == 79 / 80 and rates[80] == 1.0 and rates[81] < 1.0
