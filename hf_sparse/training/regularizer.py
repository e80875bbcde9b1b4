"""The penalty of a pruning method during one run: when it acts, and how strongly."""

from collections.abc import Mapping

from torch import Tensor

from hf_sparse.settings.sparsity import GroupLassoRecipe, SparsityRecipe
from hf_sparse.settings.values import steps_of
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.penalty import GroupLasso
from hf_sparse.sparsity.schedules import Schedule


class Regularizer:
    """Pushes groups towards zero until the step at which the final sparsity is reached.

    Where `adapt` says so, the strength is adjusted so that by then as many groups are gone as are removed.
    """

    def __init__(self, recipe: SparsityRecipe, layout: Layout, masks: Masks, schedule: Schedule) -> None:
        self.recipe = recipe.group_lasso or GroupLassoRecipe()
        self.end, total = schedule.ramp_end, schedule.total_steps
        self.refresh_every, self.adjust_every = (
            max(steps_of(point, total), 1) for point in (self.recipe.refresh, self.recipe.every)
        )
        budgets = layout.budgets(lambda final: schedule.final if final is None else final)
        groups = sum(weight.blocks for weight in layout.weights.values())
        self.asked = sum(budget.removed for budget in budgets) / groups
        self.last = 0.0
        self.penalty = GroupLasso(
            masks.targets,
            layout.blocks,
            self.recipe.strength,
            self.recipe.epsilon,
            self.recipe.threshold,
        )

    def add_gradients(self, step: int, scale: float) -> float:
        """Add the penalty's gradient to those of step `step` + 1, unless it is over; return the penalty."""
        self.last = self.penalty.add_gradients(scale) if step < self.end else 0.0
        return self.last

    def update(self, step: int) -> None:
        """Take gamma anew and adjust the strength, where they are due after `step` optimizer steps."""
        if step >= self.end:
            if step == self.end:
                self.penalty.finish(step, self.asked)
            return
        if step % self.refresh_every == 0:
            self.penalty.refresh()
        if step % self.adjust_every == 0:
            seen = self.penalty.measure(step, self.asked)
            if self.recipe.adapt:
                self.penalty.strength.adjust(seen.level, self.adjust_every, self.end - step)

    def logged(self) -> dict[str, float]:
        """Return what is logged beside a training loss: the penalty in it, its strength, the groups gone."""
        now = self.penalty.history[-1] if self.penalty.history else None
        measured = {} if now is None else {"penalty_strength": now.strength, "groups_gone": now.gone}
        return {"penalty": self.last} | measured

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint has to hold."""
        return self.penalty.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.penalty.load_state(state)
