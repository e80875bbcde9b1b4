"""A dry run: make a trainer without training it, and describe what it would do to its model."""

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_sparse.planning.estimate import Batch, memory, sidecar, step_cost
from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.training.mixin import PartsMixin
from hf_sparse.training.parts.sparsifier import Sparsifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DryRun:
    """What a run does to one model, and what it needs.

    `recipe` is the one that the trainer follows: a sparse model adds a lock on its zeros. There are `weights`
    entries in `targets` matrices, of which `zeros_now` are zero. `removed` maps each step with a mask update
    to the number of entries removed after it, and -1 to the number at the start. `left_out` counts Linears by
    the reason for leaving them out. `memory` is in bytes; `sidecar` is the largest size of the sidecar in
    bytes; `cost` is the time that each part adds to a step of `batch`, as a share of a plain step. `warnings`
    are those of the trainer.
    """

    recipe: Recipe
    targets: int
    weights: int
    zeros_now: int
    removed: Mapping[int, int]
    left_out: Mapping[str, int]
    memory: Mapping[str, int]
    sidecar: int
    cost: Mapping[str, float]
    batch: Batch
    warnings: tuple[str, ...]


class _NeverTrained(PartsMixin, Trainer):
    """A trainer that never trains. It accepts a model without a head, since the script may add one."""

    def _check_learnable(self, recipe: DistillationRecipe) -> None:
        try:
            super()._check_learnable(recipe)
        except ValueError as error:
            logger.warning("As it was saved, the model is refused: %s.", error)


def run_dry(
    recipe: Recipe,
    args: TrainingArguments,
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    batch: Batch,
) -> DryRun:
    """Make a trainer and the masks of its run, and describe them; the model is not changed.

    If the recipe needs a teacher and none is given, a copy of the model stands in. Raises the trainer's
    `ValueError`.
    """
    if recipe.quantization is not None:
        # The trainer changes the classes of the model's layers.
        model = copy.deepcopy(model)
    if teacher is None and recipe.distillation is not None and recipe.distillation.teacher == "given":
        teacher = copy.deepcopy(model)
    with _warnings() as heard:
        trainer = _NeverTrained(model=model, args=args, recipe=recipe, teacher=teacher)
        followed = trainer.recipe or recipe
        sparsity = followed.sparsity
        sparsifier = Sparsifier(sparsity, model, args.max_steps) if sparsity is not None else None
    found = sparsifier.masks.targets if sparsifier else None
    removed = _removed(sparsifier) if sparsifier else {}
    return DryRun(
        recipe=followed,
        targets=len(found) if found else 0,
        weights=sum(target.weight.numel() for target in found or ()),
        zeros_now=measure_sparsity(model, found).zeros if found else 0,
        removed=removed,
        left_out=Counter(entry.reason for entry in found.left_out) if found else {},
        memory=memory(model, sparsifier, trainer.distiller),
        sidecar=sidecar(sparsifier, trainer.distiller, max(removed.values(), default=0)),
        cost=step_cost(model, sparsifier, trainer.distiller, batch),
        batch=batch,
        warnings=tuple(heard),
    )


def _removed(sparsifier: Sparsifier) -> dict[int, int]:
    """Return the number of removed entries after each mask update of the ramp, and at the start under -1."""
    schedule, layout, masks = sparsifier.schedule, sparsifier.layout, sparsifier.masks
    removed = {-1: sum(masks.removed(name) for name in layout.blocks)}
    if schedule is None:
        return removed
    for step in filter(schedule.is_update, range(schedule.ramp_end + 1)):
        removed[step] = sum(
            max(
                budget.removed * layout.blocks[budget.names[0]].size,
                sum(masks.removed(name) for name in budget.names),
            )
            for budget in sparsifier.budgets(step)
        )
    return removed


class _Collector(logging.Handler):
    """Appends the messages of warnings to a list."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        """Append one message."""
        self._heard.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the warnings of hf_sparse."""
    heard: list[str] = []
    handler = _Collector(heard)
    logger = logging.getLogger("hf_sparse")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
