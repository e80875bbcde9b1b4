"""What a trainer would make of a model before its first step."""

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_sparse.recipe import Recipe
from hf_sparse.settings.distillation import DistillationRecipe
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.training.estimate import Batch, memory, sidecar, step_cost
from hf_sparse.training.mixin import SparseTrainingMixin
from hf_sparse.training.sparsifier import Sparsifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rehearsal:
    """What a run does to one model, and what it needs.

    `recipe` is the one the trainer follows, which may lock zeros that were not asked about. Of the `weights`
    entries in `targets` matrices `zeros_now` are zero; `removed` says how many are removed after which mask
    update, at first under -1, until the final sparsity is reached. `left_out` counts Linears by the reason.
    `memory` is in bytes, `sidecar` the most bytes it takes; `cost` holds what each part adds to the time of a
    step of `batch`, as a share of a plain one. `warnings` are those of the trainer.
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


class _Rehearsed(SparseTrainingMixin, Trainer):
    """A trainer that never trains; a model that was saved without a head may get one where it is trained."""

    def _check_learnable(self, recipe: DistillationRecipe) -> None:
        try:
            super()._check_learnable(recipe)
        except ValueError as error:
            logger.warning("As it was saved, the model is refused: %s.", error)


def rehearse(
    recipe: Recipe,
    args: TrainingArguments,
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    batch: Batch,
) -> Rehearsal:
    """Make a trainer and the masks of its run, both thrown away; the model stays as it is.

    Without a `teacher`, a copy of the model stands in where the recipe wants one. Raises `ValueError` where
    the trainer would.
    """
    if recipe.quantization is not None:
        # The trainer changes the classes of its layers.
        model = copy.deepcopy(model)
    if teacher is None and recipe.distillation is not None and recipe.distillation.teacher == "given":
        teacher = copy.deepcopy(model)
    with _warnings() as heard:
        trainer = _Rehearsed(model=model, args=args, recipe=recipe, teacher=teacher)
        sparsity = trainer.recipe.sparsity
        sparsifier = Sparsifier(sparsity, model, args.max_steps) if sparsity is not None else None
    found = sparsifier.masks.targets if sparsifier else None
    removed = _removed(sparsifier) if sparsifier else {}
    return Rehearsal(
        recipe=trainer.recipe,
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
    """Return how many entries are removed after each mask update of the ramp, at first under -1."""
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


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what hf_sparse warns of."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("hf_sparse")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
