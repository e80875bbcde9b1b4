"""What a training run would do, step by step, without running it."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, SchedulerType, TrainingArguments, get_scheduler

from hf_sparse.data.files import load_splits
from hf_sparse.planning.dry_run import DryRun, run_dry
from hf_sparse.planning.estimate import Batch
from hf_sparse.recipe import Recipe
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.training.rewind import FOLLOW_A_METRIC, check_rewindable, rewind_by


@dataclass(frozen=True)
class Plan:
    """A run of `total_steps` optimizer steps, as the log lines of its trainer will tell it.

    `sparsity[t]` is the share of removed weights after t steps, from 0: exact with a model, else as asked
    for, None where only the model could tell. `learning_rate[t]` is that of step t, None at 0, which is no
    step; None as a whole where the rate follows a metric. `updates` are the steps after which masks are
    recomputed; after `rounding` the rounding of quantization begins, after `freezing` the ranges of inputs
    stay as they are. The weights of loss terms are the same at every step. `dry_run` is None without a
    model; `remarks` say what is not promised.
    """

    recipe: Recipe
    total_steps: int
    schedule: Schedule | None
    sparsity: tuple[float, ...] | None
    learning_rate: tuple[float | None, ...] | None
    updates: tuple[int, ...]
    rounding: int | None
    freezing: int | None
    loss_weights: Mapping[str, float]
    dry_run: DryRun | None
    remarks: tuple[str, ...]

    def updates_by(self, step: int) -> int:
        """Return how many mask updates there have been after so many steps."""
        return bisect_right(self.updates, step)

    @property
    def key_steps(self) -> tuple[int, ...]:
        """The steps at which something begins or ends, in order."""
        points = {0, self.total_steps}
        if self.schedule is not None:
            points |= {self.schedule.begin, self.schedule.ramp_end, self.schedule.update_end}
        points |= {step for step in (self.rounding, self.freezing) if step is not None}
        return tuple(sorted(points))


def count_rows(data: str) -> int:
    """Return the rows to train on of a file, a directory of files or a data set of the Hub, as they are.

    Raises `ValueError` if it has no split called train.
    """
    splits = load_splits(files={"train": data}) if Path(data).is_file() else load_splits(data)
    if "train" not in splits:
        raise ValueError(f"{data} has no split called train, only {', '.join(splits)}; give the file itself")
    return len(splits["train"])


def count_steps(rows: int, batch_size: int, epochs: float, accumulation: int = 1, processes: int = 1) -> int:
    """Return the optimizer steps that Trainer makes of so many rows.

    As `Trainer.set_initial_training_values` counts them: the last batch of an epoch may be smaller, processes
    share the batches evenly, the last accumulation of an epoch may be shorter. Raises `ValueError` for
    numbers that are not positive.
    """
    given = {"rows": rows, "batch_size": batch_size, "epochs": epochs}
    given |= {"accumulation": accumulation, "processes": processes}
    for name, value in given.items():
        if value <= 0:
            raise ValueError(f"{name} must be above 0 for a run to have steps, got {value}")
    batches = ceil(ceil(rows / batch_size) / processes)
    return ceil(epochs * ceil(batches / accumulation))


def make_plan(
    recipe: Recipe,
    total_steps: int,
    learning_rate: float = 5e-5,
    lr_scheduler_type: str = "linear",
    warmup_steps: float = 0.0,
    lr_scheduler_kwargs: Mapping[str, Any] | None = None,
    model: PreTrainedModel | None = None,
    teacher: PreTrainedModel | None = None,
    batch: Batch | None = None,
) -> Plan:
    """Work out a run of `total_steps` steps by this recipe, without a step of training.

    The settings of the learning rate are those of `TrainingArguments`. With a `model`, a `SparseTrainer` is
    made of it and thrown away, which refuses what it would refuse before its first step; a `teacher` is
    frozen, and without one a copy of the model stands in where the recipe wants it. `batch` matters to the
    estimated cost alone. Raises `ValueError` where the run cannot work.
    """
    if total_steps < 1:
        raise ValueError(f"a run has at least 1 step, got {total_steps}")
    if teacher is not None and model is None:
        raise ValueError("a teacher is checked against a model, and none is given; give the model too")
    if recipe.sparsity is not None and recipe.sparsity.lr_rewind:
        check_rewindable(lr_scheduler_type)
    rate_is_known = lr_scheduler_type not in FOLLOW_A_METRIC
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=total_steps,
            learning_rate=learning_rate,
            # Arguments with the others need evaluation, which no part of the plan has.
            lr_scheduler_type=lr_scheduler_type if rate_is_known else "constant",
            warmup_steps=warmup_steps,
            lr_scheduler_kwargs=dict(lr_scheduler_kwargs or {}),
            use_cpu=True,
            report_to=[],
        )
        seen = run_dry(recipe, args, model, teacher, batch or Batch()) if model is not None else None
    recipe = seen.recipe if seen else recipe
    planned = recipe.sparsity and recipe.sparsity.schedule
    schedule = planned.resolve(total_steps) if planned else None
    updates = tuple(step for step in range(total_steps + 1) if schedule and schedule.is_update(step))
    rounding, freezing = _quantization(recipe, total_steps)
    return Plan(
        recipe=recipe,
        total_steps=total_steps,
        schedule=schedule,
        sparsity=_sparsities(schedule, updates, total_steps, seen),
        learning_rate=_learning_rates(recipe.sparsity, schedule, args) if rate_is_known else None,
        updates=updates,
        rounding=rounding,
        freezing=freezing,
        loss_weights={} if recipe.distillation is None else recipe.distillation.weights,
        dry_run=seen,
        remarks=_remarks(recipe, schedule, seen, teacher is not None, rate_is_known),
    )


def _learning_rates(
    sparsity: SparsityRecipe | None, schedule: Schedule | None, args: TrainingArguments
) -> tuple[float | None, ...]:
    """Return the learning rate of every step, from the scheduler that Trainer would build."""
    # Trainer takes the name of a scheduler as text and turns it into a member of this type.
    kind, settings = SchedulerType(args.lr_scheduler_type), args.lr_scheduler_kwargs
    stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=args.learning_rate)
    try:
        scheduler = get_scheduler(
            kind,
            optimizer=stand_in,
            num_warmup_steps=args.get_warmup_steps(args.max_steps),
            num_training_steps=args.max_steps,
            scheduler_specific_kwargs=settings if isinstance(settings, dict) else None,
        )
    except TypeError as error:
        raise ValueError(
            f"the {kind.value} learning rate needs other settings ({error}); give them as lr_scheduler_kwargs"
        ) from error
    if sparsity is not None and sparsity.lr_rewind and schedule is not None:
        rewind_by(sparsity, scheduler, schedule, args)
    multiplier = scheduler.lr_lambdas[0]
    return None, *(args.learning_rate * multiplier(step) for step in range(args.max_steps))


def _sparsities(
    schedule: Schedule | None, updates: tuple[int, ...], total_steps: int, seen: DryRun | None
) -> tuple[float, ...] | None:
    """Return the sparsity after every step, which is that of the last mask update."""
    if seen is not None and seen.weights:
        after = {step: removed / seen.weights for step, removed in seen.removed.items()}
    elif schedule is not None:
        after = {-1: 0.0} | {step: schedule.sparsity(step) for step in updates}
    else:
        return None
    held, found = after[-1], []
    for step in range(total_steps + 1):
        held = after.get(step, held)
        found.append(held)
    return tuple(found)


def _quantization(recipe: Recipe, total_steps: int) -> tuple[int | None, int | None]:
    """Return the steps after which rounding begins and ranges freeze, where there are ranges."""
    if recipe.quantization is None:
        return None, None
    begin, freeze = recipe.quantization.resolve(total_steps)
    return begin, freeze if recipe.quantization.activations == "uint8_per_tensor" else None


def _remarks(
    recipe: Recipe, schedule: Schedule | None, seen: DryRun | None, taught: bool, rate_is_known: bool
) -> tuple[str, ...]:
    """Say what the plan takes for granted, what it leaves out, what the trainer does not promise."""
    said = list(seen.warnings) if seen else []
    sparsity, distillation = recipe.sparsity, recipe.distillation
    if not rate_is_known:
        said.append("The learning rate follows a metric, so it is not known before the run.")
    if distillation is not None and distillation.teacher == "given" and not taught:
        said.append("The teacher is taken to be of the model's size; name it to have it checked.")
    revives = sparsity is not None and sparsity.revives
    if schedule is not None and schedule.update_end > schedule.ramp_end and not revives:
        said.append(
            f"Mask updates after step {schedule.ramp_end:,} change nothing, since without revive no removed "
            "weight returns."
        )
    if sparsity is not None and seen is None:
        said.append("Name the model to have its shapes checked and its memory counted.")
    if sparsity is not None and seen is None and not sparsity.include:
        said.append("Embeddings, pooler and head stay dense: only the layer stack is pruned.")
    if recipe.quantization is not None:
        said.append("Rounding is simulated: the model keeps its precision, and steps take longer by it.")
    if sparsity is not None:
        said.append("Zeros are stored like any number: files stay as large as those of the dense model.")
    if recipe != Recipe():
        said.append(
            "Resuming is exact where the collator draws no random numbers (for masked words use "
            "hf_sparse.training.mlm), but neither with save_only_model nor with persistent workers, "
            "nor with a stream whose passes differ in length."
        )
    return tuple(said)
