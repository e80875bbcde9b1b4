"""The reweighted group-Lasso penalty of one model during one run."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor

from hf_sparse.sparsity.groups import add_gradient, measure_groups
from hf_sparse.sparsity.parallel import parallel_map
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.strength import Strength
from hf_sparse.targets import Target, Targets

_GAMMA = "gamma."


@dataclass(frozen=True)
class Measurement:
    """How the penalty did at one step: its strength, the share of groups that are gone, the level.

    `level` is the size of the largest of the groups that are to be gone in the end; below 1 they are.
    """

    step: int
    strength: float
    gone: float
    level: float


class GroupLasso:
    """strength * sum_g gamma_g ||w_g||_2, with gamma_g = 1 / (||w_g||_2 + epsilon) of an earlier moment.

    Li et al. 2020 (arXiv:2009.08065) after Candès et al. 2008 (arXiv:0711.1612): groups that were small are
    pushed harder, so that the sum approaches the number of groups that are left. `gamma` stays as it is
    between calls of `refresh`. A group counts as gone once its root mean square is below `threshold` times
    that of its weight at the start.
    """

    def __init__(
        self,
        targets: Targets,
        blocks: Mapping[str, Block],
        strength: float,
        epsilon: float = 1e-3,
        threshold: float = 0.1,
    ) -> None:
        self.targets, self.blocks, self.epsilon = targets, blocks, epsilon
        self.strength = Strength(strength)
        self.history: list[Measurement] = []
        self._gammas: dict[str, Tensor] = {}
        self._limits = {target.name: threshold * self._spread(target) for target in targets}
        self.refresh()

    def refresh(self) -> None:
        """Take gamma from the weights as they are now."""
        self._gammas = dict(parallel_map(self._gamma, self.targets))

    def value(self) -> float:
        """Return the penalty at the present weights."""
        sums = parallel_map(
            lambda target: float((self._gammas[target.name] * self._norms(target)).sum()), self.targets
        )
        return self.strength.value * sum(sums)

    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty to those of the weights that have one; return the penalty.

        `scale` is what the loss was multiplied by before its gradients were taken.
        """
        factor = self.strength.value

        def add(target: Target) -> float:
            if target.gradient is None:
                return 0.0
            rates = self._gammas[target.name] * (factor * scale)
            return add_gradient(target.weight, target.gradient, self.blocks[target.name], rates)

        return sum(parallel_map(add, self.targets)) / scale

    def measure(self, step: int, asked: float) -> Measurement:
        """Note and return where things stand after a step; `asked` is the share of groups to be gone."""
        sizes = torch.cat(parallel_map(self._sizes, self.targets))
        count = round(asked * len(sizes))
        level = float(sizes.kthvalue(count).values) if count else 0.0
        gone = (sizes < 1).sum().item() / len(sizes)
        self.history.append(Measurement(step, self.strength.value, gone, level))
        return self.history[-1]

    def finish(self, step: int, asked: float) -> None:
        """Note how it ended; from here on there is nothing left of the penalty but its history."""
        self.measure(step, asked)
        self._gammas = {}

    def state(self) -> dict[str, Tensor]:
        """Return all that a run needs to go on as if it had not been interrupted."""
        level = float("nan") if self.strength.level is None else self.strength.level
        rows = [(row.step, row.strength, row.gone, row.level) for row in self.history]
        return {
            "strength": torch.tensor([self.strength.value, level], dtype=torch.float64),
            "limits": torch.tensor(list(self._limits.values()), dtype=torch.float64),
            "history": torch.tensor(rows, dtype=torch.float64).view(-1, 4),
            **{_GAMMA + name: gamma.contiguous() for name, gamma in self._gammas.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned for the same model; raise `ValueError` if it was another."""
        given = {key.removeprefix(_GAMMA): value for key, value in state.items() if key.startswith(_GAMMA)}
        shapes = [{name: gamma.shape for name, gamma in side.items()} for side in (given, self._gammas)]
        if given and shapes[0] != shapes[1]:
            raise ValueError(
                "the groups of the checkpoint's penalty are not those of this recipe and model; resume from "
                "another one"
            )
        self._gammas = {name: given[name].to(self._gammas[name]) for name in given}
        value, level = state["strength"].tolist()
        self.strength = Strength(value, None if isnan(level) else level)
        self._limits = dict(zip(self._limits, state["limits"].tolist(), strict=True))
        self.history = [Measurement(int(step), *rest) for step, *rest in state["history"].tolist()]

    def _norms(self, target: Target) -> Tensor:
        return measure_groups(target.weight, self.blocks[target.name])

    def _sizes(self, target: Target) -> Tensor:
        """Return the norms of groups, flat, as multiples of the one below which they count as gone."""
        return (self._norms(target) / self._limits[target.name]).flatten()

    def _gamma(self, target: Target) -> tuple[str, Tensor]:
        return target.name, self._norms(target).add_(self.epsilon).reciprocal_()

    def _spread(self, target: Target) -> float:
        """Return the norm of an average group."""
        weight = target.weight.detach()
        return (self.blocks[target.name].size / weight.numel()) ** 0.5 * float(weight.float().norm())
