"""Learning-rate rewinding while pruning (Zafrir et al. 2021, arXiv:2111.05754)."""

from bisect import bisect_right
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import SchedulerType, TrainingArguments, get_scheduler

from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.schedules import Schedule

# Share of the peak rate at the end of a cycle: 8e-5 to 8e-6 in the published recipes.
LOWEST = 0.1

FOLLOW_A_METRIC = ("reduce_lr_on_plateau", "greedy")


def check_rewindable(scheduler_type: str) -> None:
    """Raise `ValueError` for a learning-rate schedule that follows a metric instead of the step."""
    if scheduler_type in FOLLOW_A_METRIC:
        raise ValueError(
            "lr_rewind needs a learning rate that is a function of the step, and "
            f"{SchedulerType(scheduler_type).value} follows a metric; "
            "choose another lr_scheduler_type, or set sparsity.lr_rewind=false"
        )


def rewound_step(step: int, schedule: Schedule) -> int:
    """Return the step at which a run without a pruning ramp has the learning rate of this step.

    Within the ramp the count restarts at every mask update; the ramp's steps do not count for the decay.
    """
    if step < schedule.begin:
        return step
    if step < schedule.ramp_end:
        return schedule.begin + step - schedule.interval_start(step)
    return step - (schedule.ramp_end - schedule.begin)


def rewind_by(
    recipe: SparsityRecipe, scheduler: LRScheduler, schedule: Schedule, args: TrainingArguments
) -> None:
    """Rewind a scheduler as a recipe says; see `rewind`."""
    last_update = schedule.update_end if recipe.revives else schedule.ramp_end
    rewind(scheduler, schedule, args, recipe.lr_rewind == "cyclic", last_update)


def rewind(
    scheduler: LRScheduler,
    schedule: Schedule,
    args: TrainingArguments,
    cyclic: bool = False,
    last_update: int | None = None,
) -> None:
    """Make a learning-rate scheduler rewind at the mask updates of a ramp; it must not have stepped yet.

    With `cyclic` the rate falls linearly from its peak to a tenth of it, once before the ramp, once between
    one mask update and the next, and once after the last of them (Kurtic et al. 2022, arXiv:2203.07259,
    appendix A).

    Otherwise the decay spans the T' = T - (p1 - p0) steps outside the ramp [p0, p1) of a run of T steps
    (Zafrir et al. 2021, arXiv:2111.05754). The linear schedule is that of the authors' code: after a rewind
    its decay starts W steps early, W being the warm-up, at up to T' / (T' - W) times the peak rate. Other
    schedules never go back into their warm-up.

    Args:
        scheduler: Changed in place.
        schedule: The mask updates.
        args: The training arguments that the scheduler was made from.
        cyclic: See above.
        last_update: The step of the last update; None for the ramp's end.

    Raises:
        ValueError: The scheduler is not a `LambdaLR`, or the warm-up leaves no step for the decay.
    """
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            "lr_rewind works on schedulers made of a function of the step (LambdaLR), got "
            f"{type(scheduler).__name__}; "
            "choose another lr_scheduler_type, or set sparsity.lr_rewind=false"
        )
    warmup = args.get_warmup_steps(schedule.total_steps)
    horizon = schedule.total_steps - (schedule.ramp_end - schedule.begin)
    if cyclic:
        scheduler.lr_lambdas = [
            _cycles(warmup, schedule, last_update or schedule.ramp_end) for _ in scheduler.lr_lambdas
        ]
        return
    if warmup >= horizon:
        raise ValueError(
            f"lr_rewind leaves {horizon} steps outside the pruning ramp, no more than the {warmup} warm-up "
            "steps; "
            "shorten the warm-up or the ramp, or set sparsity.lr_rewind=false"
        )
    if args.lr_scheduler_type == "linear":
        multiplier = _linear(warmup, horizon, schedule)
        scheduler.lr_lambdas = [multiplier for _ in scheduler.lr_lambdas]
        return
    scheduler.lr_lambdas = [
        _rewound(multiplier, warmup, schedule)
        for multiplier in _lambdas(scheduler.optimizer, warmup, horizon, args)
    ]


def _linear(warmup: int, horizon: int, schedule: Schedule) -> Callable[[int], float]:
    def multiplier(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(horizon - rewound_step(step, schedule), 0) / (horizon - warmup)

    return multiplier


def _cycles(warmup: int, schedule: Schedule, last_update: int) -> Callable[[int], float]:
    updates = filter(schedule.is_update, range(schedule.begin, last_update + 1))
    starts = [min(warmup, schedule.total_steps - 1), *(step for step in updates if step > warmup)]
    ends = [*starts[1:], schedule.total_steps]

    def multiplier(step: int) -> float:
        if step < warmup:
            return step / warmup
        cycle = max(bisect_right(starts, step) - 1, 0)
        elapsed = (step - starts[cycle]) / max(ends[cycle] - starts[cycle], 1)
        return 1 - (1 - LOWEST) * min(elapsed, 1.0)

    return multiplier


def _rewound(original: Callable[[int], float], warmup: int, schedule: Schedule) -> Callable[[int], float]:
    def multiplier(step: int) -> float:
        return original(step if step < warmup else max(warmup, rewound_step(step, schedule)))

    return multiplier


def _lambdas(
    optimizer: torch.optim.Optimizer, warmup: int, horizon: int, args: TrainingArguments
) -> list[Callable[[int], float]]:
    """Return the multipliers of the schedule in the arguments for `horizon` steps, one per group."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(()))]} for _ in optimizer.param_groups]
    # Not the optimizer itself: a scheduler sets its rates. Some read the peak rate from its defaults.
    stand_in = torch.optim.SGD(groups, lr=optimizer.defaults["lr"])
    # Text on the command line, which TrainingArguments has turned into a dict.
    settings = args.lr_scheduler_kwargs
    return get_scheduler(
        args.lr_scheduler_type,
        optimizer=stand_in,
        num_warmup_steps=warmup,
        num_training_steps=horizon,
        scheduler_specific_kwargs=settings if isinstance(settings, dict) else None,
    ).lr_lambdas
