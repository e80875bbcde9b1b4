"""Plan a training run: what happens at which step, without a step of training."""

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
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.training.parts.lr_rewind import FOLLOW_A_METRIC, check_rewindable, rewind_by


@dataclass(frozen=True)
class Plan:
    """A run of `total_steps` optimizer steps, with the values that its trainer will log.

    `sparsity[t]` is the share of removed weights after t steps, from 0: exact with a model, else the
    scheduled one, None if it depends on the model. `learning_rate[t]` is that of step t, None for t = 0; the
    whole is None if the rate follows a metric. `updates` are the steps after which masks are recomputed.
    Quantization starts to round after step `rounding` and fixes the ranges of inputs after step `freezing`.
    The weights of loss terms hold for every step. `dry_run` is None without a model; `remarks` say what the
    plan cannot promise.
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
        """Return the number of mask updates in the first `step` steps."""
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
    """Return the number of training rows in a file, a directory of files or a dataset of the Hub.

    Raises `ValueError` if the split `train` is missing.
    """
    splits = load_splits(files={"train": data}) if Path(data).is_file() else load_splits(data)
    if "train" not in splits:
        raise ValueError(
            f"{data} lacks a split called train and has only {', '.join(splits)}; give the file itself"
        )
    return len(splits["train"])


def count_steps(rows: int, batch_size: int, epochs: float, accumulation: int = 1, processes: int = 1) -> int:
    """Return the number of optimizer steps of a run over `rows` rows.

    Counted as in `Trainer.set_initial_training_values`: the last batch of an epoch may be smaller, processes
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
    """Return the plan of a run by a recipe, without a step of training.

    Args:
        recipe: What the run does.
        total_steps: Number of optimizer steps.
        learning_rate, lr_scheduler_type, warmup_steps, lr_scheduler_kwargs: As in `TrainingArguments`.
        model: If given, a `SparseTrainer` is made of it and thrown away: counts are then exact, and what the
            trainer refuses before its first step is refused here.
        teacher: The teacher of the run, which is frozen. A copy of the model stands in if it is missing.
        batch: Batch of one process, for the estimated cost alone.

    Returns:
        The `Plan`.

    Raises:
        ValueError: The run cannot work by this recipe.
    """
    if total_steps < 1:
        raise ValueError(f"a run has at least 1 step, got {total_steps}")
    if teacher is not None and model is None:
        raise ValueError("a teacher is checked against the model it teaches; give the model too")
    if recipe.sparsity is not None and recipe.sparsity.lr_rewind:
        check_rewindable(lr_scheduler_type)
    rate_is_known = lr_scheduler_type not in FOLLOW_A_METRIC
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=total_steps,
            learning_rate=learning_rate,
            # The arguments refuse the others without evaluation, which a plan leaves out.
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
    """Return the learning rate of every step, from the scheduler that Trainer builds."""
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
    """Return the sparsity after every step: that of the last mask update."""
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
    """Return the steps after which rounding begins and ranges freeze, None for what does not happen."""
    if recipe.quantization is None:
        return None, None
    begin, freeze = recipe.quantization.resolve(total_steps)
    return begin, freeze if recipe.quantization.activations == "uint8_per_tensor" else None


def _remarks(
    recipe: Recipe, schedule: Schedule | None, seen: DryRun | None, taught: bool, rate_is_known: bool
) -> tuple[str, ...]:
    """Return sentences on what the plan assumes and leaves out, and what the trainer does not promise."""
    said = list(seen.warnings) if seen else []
    sparsity, distillation = recipe.sparsity, recipe.distillation
    if not rate_is_known:
        said.append("The learning rate follows a metric, so it is unknown before the run.")
    if distillation is not None and distillation.teacher == "given" and not taught:
        said.append("The teacher is assumed to have the size of the model; name it to have it checked.")
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
        said.append("Rounding is simulated: the model keeps its precision, and steps take longer.")
    if sparsity is not None:
        said.append("Zeros are stored like other numbers: files are as large as those of the dense model.")
    if recipe != Recipe():
        said.append(
            "Resuming is exact if the collator draws no random numbers (for masked words use "
            "hf_sparse.training.mlm), but not with save_only_model, persistent workers or a stream whose "
            "passes differ in length."
        )
    return tuple(said)
