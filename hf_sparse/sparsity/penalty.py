"""A penalty that makes small what a pruning method is going to remove."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import isnan

import torch
from torch import Tensor

from hf_sparse.sparsity.strength import Strength


@dataclass(frozen=True)
class Measurement:
    """How a penalty did at one step: its strength, the share of groups that are gone, the level.

    `level` is the size of the largest of the groups that are to be gone in the end; below 1 they are.
    """

    step: int
    strength: float
    gone: float
    level: float


class Penalty(ABC):
    """A term of the training loss, with a factor that is adjusted, and what it came to so far."""

    def __init__(self, strength: float) -> None:
        self.strength = Strength(strength)
        self.history: list[Measurement] = []

    over = False

    @abstractmethod
    def refresh(self) -> None:
        """Take anew from the weights what the penalty holds constant for a while."""

    @abstractmethod
    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty to those of what it acts on; return the penalty.

        `scale` is what the loss was multiplied by before its gradients were taken.
        """

    @abstractmethod
    def sizes(self) -> Tensor:
        """Return the sizes of all groups, flat, as multiples of the one below which they count as gone."""

    def measure(self, step: int, asked: float) -> Measurement:
        """Note and return where things stand after a step; `asked` is the share of groups to be gone."""
        sizes = self.sizes()
        level = self.level(sizes, asked)
        gone = (sizes < 1).sum().item() / len(sizes)
        self.history.append(Measurement(step, self.strength.value, gone, level))
        return self.history[-1]

    def level(self, sizes: Tensor, asked: float) -> float:
        """Return the size of the largest of the groups that are to be gone."""
        count = round(asked * len(sizes))
        return float(sizes.kthvalue(count).values) if count else 0.0

    def finish(self, step: int, asked: float) -> None:
        """Note how it ended."""
        self.measure(step, asked)

    def state(self) -> dict[str, Tensor]:
        """Return all that a run needs to go on as if it had not been interrupted."""
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

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        """Say whether tensors are those that `state` returns, of any run of the same model."""
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
