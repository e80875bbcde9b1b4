"""The penalty of a pruning method during one run: when it acts, and how strongly."""

import logging
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from hf_sparse.settings.methods import GroupLassoRecipe, MovementRecipe
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.settings.values import steps_of
from hf_sparse.sparsity.group_lasso import AIM, GroupLasso
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.movement import MovementScores
from hf_sparse.sparsity.penalty import Penalty
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.sparsity.score_penalty import ScorePenalty
from hf_sparse.sparsity.strength import Strength
from hf_sparse.sparsity.update import kept_if_pruned
from hf_sparse.targets import Targets

logger = logging.getLogger(__name__)

# What Li et al. 2020 begin with.
_STRENGTH = 1e-4

# Of the time left to proximal steps, as in the cubic schedule: most groups vanish early, while the learning
# rate is high and there is time to make up for them.
_POWER = 3.0


class Regularizer:
    """Pushes groups, or scores, towards zero until the step at which the final sparsity is reached.

    Where `adapt` says so, the strength is adjusted so that by then as many are gone as are removed.
    `proximal` penalties shrink groups after the optimizer's step instead of adding a gradient before it.
    """

    def __init__(
        self,
        penalty: Penalty,
        recipe: GroupLassoRecipe | MovementRecipe,
        schedule: Schedule,
        asked: float,
        refresh: int | str = "100%",
        proximal: bool = False,
    ) -> None:
        self.penalty, self.adapt, self.asked, self.proximal = penalty, recipe.adapt, asked, proximal
        self.end, total = schedule.ramp_end, schedule.total_steps
        self.refresh_every, self.adjust_every = (
            max(steps_of(point, total), 1) for point in (refresh, recipe.every)
        )
        self.last = 0.0

    def add_gradients(self, step: int, scale: float) -> float:
        """Add the penalty's gradient to those of step `step` + 1, unless it is over; return the penalty.

        A proximal one is no part of the loss, and returns 0.
        """
        acts = step < self.end and not self.proximal
        self.last = self.penalty.add_gradients(scale) if acts else 0.0
        return self.last

    def after_step(self, step: int) -> None:
        """Take the proximal step that follows the optimizer's step `step` + 1, if there is one."""
        if self.proximal and step < self.end:
            self.penalty.shrink()

    def update(self, step: int) -> None:
        """Refresh the penalty and adjust its strength, where they are due after `step` optimizer steps."""
        if step >= self.end:
            if step == self.end:
                self._finish(step)
            return
        if step % self.refresh_every == 0:
            self.penalty.refresh()
        if step % self.adjust_every == 0:
            seen = self.penalty.measure(step, self.asked)
            if self.adapt:
                # With gamma = 1 / n a proximal step takes as much of the square of every norm.
                level, power = ((seen.level / AIM) ** 2, _POWER) if self.proximal else (seen.level, 1.0)
                self.penalty.strength.adjust(level, self.adjust_every, self.end - step, power)

    def _finish(self, step: int) -> None:
        self.penalty.finish(step, self.asked)
        level = self.penalty.history[-1].level
        if self.adapt and level > _SMALL:
            logger.warning(
                "What is removed at step %d is still %.1f times as large as what counts as gone: the steps "
                "before were too few, or the learning rate too small.",
                step,
                level,
            )

    def logged(self) -> dict[str, float]:
        """Return what is logged beside a training loss: the penalty in it, its strength, the groups gone."""
        now = self.penalty.history[-1] if self.penalty.history else None
        measured = {} if now is None else {"penalty_strength": now.strength, "groups_gone": now.gone}
        return {"penalty": self.last} | measured

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Go on from the state that the penalty had after `step` steps."""
        self.penalty.load_state(state)
        # The end may have been moved, behind the step that is resumed or before it.
        if step < self.end and self.penalty.over:
            self.penalty.refresh()
        if step >= self.end and (not self.penalty.history or self.penalty.history[-1].step < self.end):
            self._finish(step)


# From this level on people are told.
_SMALL = 1.5


def make_regularizer(
    recipe: SparsityRecipe,
    targets: Targets,
    layout: Layout,
    schedule: Schedule,
    scores: MovementScores | None,
) -> Regularizer:
    """Make the penalty of a recipe's method: on learned scores if there are any, else on groups."""
    budgets = layout.budgets(lambda final: schedule.final if final is None else final)
    groups = sum(weight.blocks for weight in layout.weights.values())
    asked = sum(budget.removed for budget in budgets) / groups
    if scores is not None:
        soft = recipe.movement or MovementRecipe()
        drawn = ScorePenalty(scores, soft.strength, soft.threshold)
        return Regularizer(drawn, soft, schedule, asked)
    own = recipe.group_lasso or GroupLassoRecipe()
    _check_targets(targets, own)
    proximal, strength = own.step == "proximal", own.strength or _STRENGTH
    kept = partial(kept_if_pruned, budgets) if own.spare else None
    penalty = GroupLasso(targets, layout.blocks, strength, own.epsilon, own.threshold, kept)
    if proximal and own.strength is None:
        even = penalty.proximal_strength(max(schedule.ramp_end, 1), asked)
        penalty.strength = Strength(_POWER * even if own.adapt else even)
    return Regularizer(penalty, own, schedule, asked, own.refresh, proximal)


def _check_targets(targets: Targets, recipe: GroupLassoRecipe) -> None:
    """Raise `ValueError` for weights that a penalty cannot make small."""
    halves = [target for target in targets if target.weight.dtype.itemsize < _FULL]
    if recipe.step == "proximal" and halves:
        raise ValueError(
            f"{halves[0].name} is {halves[0].weight.dtype}, which rounds away steps as short as those of "
            "group_lasso.step=proximal; load the model in float32 (bf16=True trains it well), or set "
            "sparsity.group_lasso.step=gradient"
        )


# Bytes of a number of float32.
_FULL = 4
