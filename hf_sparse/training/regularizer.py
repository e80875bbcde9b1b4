"""The penalty of a pruning method during one run: when it acts, and how strongly."""

from hf_sparse.settings.methods import GroupLassoRecipe, MovementRecipe
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.settings.values import steps_of
from hf_sparse.sparsity.group_lasso import GroupLasso
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.movement import MovementScores
from hf_sparse.sparsity.penalty import Penalty
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.sparsity.score_penalty import ScorePenalty
from hf_sparse.targets import Targets


class Regularizer:
    """Pushes groups, or scores, towards zero until the step at which the final sparsity is reached.

    Where `adapt` says so, the strength is adjusted so that by then as many are gone as are removed.
    """

    def __init__(
        self,
        penalty: Penalty,
        recipe: GroupLassoRecipe | MovementRecipe,
        layout: Layout,
        schedule: Schedule,
        refresh: int | str,
    ) -> None:
        self.penalty, self.adapt = penalty, recipe.adapt
        self.end, total = schedule.ramp_end, schedule.total_steps
        self.refresh_every, self.adjust_every = (
            max(steps_of(point, total), 1) for point in (refresh, recipe.every)
        )
        budgets = layout.budgets(lambda final: schedule.final if final is None else final)
        groups = sum(weight.blocks for weight in layout.weights.values())
        self.asked = sum(budget.removed for budget in budgets) / groups
        self.last = 0.0

    def add_gradients(self, step: int, scale: float) -> float:
        """Add the penalty's gradient to those of step `step` + 1, unless it is over; return the penalty."""
        self.last = self.penalty.add_gradients(scale) if step < self.end else 0.0
        return self.last

    def update(self, step: int) -> None:
        """Refresh the penalty and adjust its strength, where they are due after `step` optimizer steps."""
        if step >= self.end:
            if step == self.end:
                self.penalty.finish(step, self.asked)
            return
        if step % self.refresh_every == 0:
            self.penalty.refresh()
        if step % self.adjust_every == 0:
            seen = self.penalty.measure(step, self.asked)
            if self.adapt:
                self.penalty.strength.adjust(seen.level, self.adjust_every, self.end - step)

    def logged(self) -> dict[str, float]:
        """Return what is logged beside a training loss: the penalty in it, its strength, the groups gone."""
        now = self.penalty.history[-1] if self.penalty.history else None
        measured = {} if now is None else {"penalty_strength": now.strength, "groups_gone": now.gone}
        return {"penalty": self.last} | measured


def make_regularizer(
    recipe: SparsityRecipe,
    targets: Targets,
    layout: Layout,
    schedule: Schedule,
    scores: MovementScores | None,
) -> Regularizer:
    """Make the penalty of a recipe's method: on learned scores if there are any, else on groups."""
    if scores is not None:
        soft = recipe.movement or MovementRecipe()
        return Regularizer(
            ScorePenalty(scores, soft.strength, soft.threshold), soft, layout, schedule, "100%"
        )
    own = recipe.group_lasso or GroupLassoRecipe()
    penalty = GroupLasso(targets, layout.blocks, own.strength, own.epsilon, own.threshold)
    return Regularizer(penalty, own, layout, schedule, own.refresh)
