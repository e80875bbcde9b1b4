"""Penalties that make small what a pruning method is going to remove, and their strength during a run."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from math import isfinite, isnan

import torch
from torch import Tensor

from hf_sparse.fields import steps_of
from hf_sparse.shards import Group
from hf_sparse.sparsity.methods.method import MethodRun, PruningRun
from hf_sparse.sparsity.sharded.selection import kth_smallest
from hf_sparse.targets import Target

logger = logging.getLogger(__name__)

# A strength grows to this multiple of its first value at most.
_MOST = 100.0
# At the end a level above this is warned about.
_SMALL = 1.5
# The section of the sidecar that holds the state of a penalty.
_PART = "penalty"


@dataclass
class Strength:
    """A factor that is adjusted so that a level falls to 1 in the steps that are left.

    The level is the size of the largest group to be removed, as a multiple of the size at which a group
    counts as gone. It shows from the first step on how fast groups get smaller; the number of groups that are
    gone would show it too late. The factor stays below 100 times `first`: if an optimizer cannot move weights
    that fast, a larger factor only drowns the task.
    """

    first: float
    value: float = 0.0
    level: float | None = None

    def __post_init__(self) -> None:
        self.value = self.value or self.first

    def adjust(self, level: float, since: int, left: int, power: float = 1.0) -> None:
        """Adjust to a level measured `since` steps after the last one, `left` steps before it should be 1.

        The distance to 1 should fall as this power of the time left. Multiply by the square root of needed
        over actual pace, clipped to [0.5, 2]: the optimizer's momentum carries on earlier changes.
        """
        before, self.level = self.level, level
        if before is None or not isfinite(level - before):
            return
        needed, pace = power * (level - 1) / left, (before - level) / since
        off = 4.0 if needed > 0 >= pace else 0.25 if needed <= 0 else needed / pace
        self.value = min(self.value * min(max(off, 0.25), 4.0) ** 0.5, _MOST * self.first)


@dataclass(frozen=True)
class Measurement:
    """The state of a penalty at one step: its strength, the share of groups that are gone, its level.

    `level` is the size of the largest group to be removed, as a multiple of the size at which it is gone.
    """

    step: int
    strength: float
    gone: float
    level: float


class Penalty(ABC):
    """A term of the training loss with an adjustable strength, and the history of its measurements.

    `group` are the processes that share the weights (FSDP2), if there are several: each has the sizes of some
    groups, and all of them must call the same methods.

    Args:
        strength: the factor of the term to begin with.
    """

    def __init__(self, strength: float) -> None:
        self.strength = Strength(strength)
        self.history: list[Measurement] = []
        self.group: Group | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is left of the penalty but its history."""
        return False

    @abstractmethod
    def refresh(self) -> None:
        """Recompute from the weights what the penalty holds constant between calls."""

    @abstractmethod
    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty, times `scale`, to existing gradients.

        Args:
            scale: Factor that the loss was multiplied by before its gradients were taken.

        Returns:
            The penalty, not scaled.
        """

    @abstractmethod
    def sizes(self) -> Tensor:
        """Return the sizes of all groups, flat, as multiples of that below which a group counts as gone.

        If processes share the weights, each group is among the sizes of one process.
        """

    def measure(self, step: int, asked: float) -> Measurement:
        """Record and return the state after a step; `asked` is the share of groups to be removed."""
        sizes = self.sizes()
        level = self.level(sizes, asked)
        count, total = self._totals(int((sizes < 1).sum()), len(sizes))
        gone = count / total
        self.history.append(Measurement(step, self.strength.value, gone, level))
        return self.history[-1]

    def level(self, sizes: Tensor, asked: float) -> float:
        """Return the size of the largest group to be removed."""
        (total,) = self._totals(len(sizes))
        return self._smallest(sizes, round(asked * total))

    def finish(self, step: int, asked: float) -> None:
        """Record the state at the end."""
        self.measure(step, asked)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors from which an interrupted run goes on exactly."""
        strength = self.strength
        level = float("nan") if strength.level is None else strength.level
        return {
            "strength": torch.tensor([strength.first, strength.value, level], dtype=torch.float64),
            "history": torch.tensor([astuple(row) for row in self.history], dtype=torch.float64).view(-1, 4),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; raise `ValueError` if it was of something else."""
        if not self._fits(state):
            raise ValueError(
                "the checkpoint's penalty is not that of this recipe and model; resume from another one"
            )
        first, value, level = state["strength"].tolist()
        self.strength = Strength(first, value, None if isnan(level) else level)
        self.history = [Measurement(int(step), *rest) for step, *rest in state["history"].tolist()]

    def _totals(self, *counts: int) -> list[int]:
        """Return the sums of counts over all processes."""
        return list(counts) if self.group is None else self.group.totals(counts)

    def _smallest(self, numbers: Tensor, count: int) -> float:
        """Return the `count`-th smallest of the numbers of all processes; 0 if `count` is 0."""
        if not count:
            return 0.0
        if self.group is not None:
            return kth_smallest(numbers, count, self.group)
        return float(numbers.kthvalue(count).values)

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether tensors are a `state` of some run of the same model."""
        strength, history = state.get("strength"), state.get("history")
        return (
            strength is not None
            and history is not None
            and strength.dtype == history.dtype == torch.float64
            and strength.shape == (3,)
            and history.dim() == 2
            and history.shape[1] == 4
            and bool(strength[:2].isfinite().all() and history[:, 0].isfinite().all())
        )


class PenalizedRun(MethodRun):
    """A method that adds a penalty to the loss until the step at which the final sparsity is reached.

    Args:
        run: The run that the method is started for.
        penalty: The term of the loss.
        adapt: Adjust the strength of the penalty, so that in the end as many groups are gone as are removed.
        every: Steps between two adjustments, or a share of the run such as "5%".
        refresh: Steps after which the penalty recomputes what it holds constant, or a share of the run.
    """

    def __init__(
        self,
        run: PruningRun,
        penalty: Penalty,
        adapt: bool = True,
        every: int | str = "1%",
        refresh: int | str = "100%",
    ) -> None:
        super().__init__(run)
        self.penalty, self.adapt = penalty, adapt
        self.end, total = run.schedule.ramp_end, run.schedule.total_steps
        self.refresh_every, self.adjust_every = (max(steps_of(point, total), 1) for point in (refresh, every))
        self.last = 0.0

    def gradients(self, step: int, scale: float, whole: Callable[[Target], Tensor] | None) -> float:
        """Add the gradient of the penalty, unless it is over; return the penalty."""
        self.last = self.penalty.add_gradients(scale) if step < self.end else 0.0
        return self.last

    def update(self, step: int) -> None:
        """Refresh the penalty and adjust its strength, where they are due after `step` optimizer steps."""
        if step >= self.end:
            if step == self.end:
                self._finish(step)
            return
        if step % self.refresh_every == 0:
            self.penalty.refresh()
        if step % self.adjust_every == 0:
            seen = self.penalty.measure(step, self.run.asked)
            if self.adapt:
                level, power = self.pace(seen.level)
                self.penalty.strength.adjust(level, self.adjust_every, self.end - step, power)

    def pace(self, level: float) -> tuple[float, float]:
        """Return the level that the strength follows, and the power of the time left that it falls by."""
        return level, 1.0

    def _finish(self, step: int) -> None:
        self.penalty.finish(step, self.run.asked)
        level = self.penalty.history[-1].level
        if self.adapt and level > _SMALL:
            logger.warning(
                "What is removed at step %d is still %.1f times as large as what counts as gone: the steps "
                "before were too few, or the learning rate too small.",
                step,
                level,
            )

    def logs(self) -> dict[str, float]:
        """Return the penalty in the loss, its strength, and the share of groups that are gone."""
        now = self.penalty.history[-1] if self.penalty.history else None
        measured = {} if now is None else {"penalty_strength": now.strength, "groups_gone": now.gone}
        return super().logs() | {"penalty": self.last} | measured

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of the penalty as part `penalty`."""
        return super().state() | {_PART: self.penalty.state()}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Go on from the state that the penalty had after `step` steps."""
        super().load_state(state, step)
        self.penalty.load_state(state.get(_PART, {}))
        # The end may have been moved, behind the step that is resumed or before it.
        if step < self.end and self.penalty.over:
            self.penalty.refresh()
        if step >= self.end and (not self.penalty.history or self.penalty.history[-1].step < self.end):
            self._finish(step)
