"""The reweighted group-Lasso penalty of one model during one run."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hf_sparse.sparsity.groups import add_gradient, measure_groups, shrink_groups
from hf_sparse.sparsity.parallel import parallel_map
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.penalty import Penalty
from hf_sparse.targets import Target, Targets

_GAMMA = "gamma."
# Of a strength, which is multiplied and so must not be zero.
_LEAST = 1e-12

AIM = 0.5
"""The size that proximal steps aim at, of that at which a group counts as gone: near zero they are long."""


class GroupLasso(Penalty):
    """strength * sum_g gamma_g ||w_g||_2, with gamma_g = 1 / (||w_g||_2 + epsilon) of an earlier moment.

    Li et al. 2020 (arXiv:2009.08065) after Candes et al. 2008 (arXiv:0711.1612): groups that were small are
    pushed harder, so that the sum approaches the number of groups that are left. `gamma` stays as it is
    between calls of `refresh`. A group counts as gone once its root mean square is below `threshold` times
    that of its weight at the start.

    `kept` says from the norms of all groups, by the names of their weights, which of them are spared: their
    gamma is zero, so that what stays is not made small with what goes.
    """

    def __init__(
        self,
        targets: Targets,
        blocks: Mapping[str, Block],
        strength: float,
        epsilon: float = 1e-3,
        threshold: float = 0.1,
        kept: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__(strength)
        self.kept = kept
        self.targets, self.blocks, self.epsilon = targets, blocks, epsilon
        self._gammas: dict[str, Tensor] = {}
        self._limits = self._first_limits(threshold)
        self.refresh()

    @property
    def over(self) -> bool:
        """Whether nothing is left of the penalty but its history."""
        return not self._gammas

    def refresh(self) -> None:
        """Take gamma from the weights as they are now."""
        norms = dict(parallel_map(lambda target: (target.name, self._norms(target)), self.targets))
        kept = {} if self.kept is None else self.kept(norms)
        self._gammas = {name: of.add_(self.epsilon).reciprocal_() for name, of in norms.items()}
        for name, keep in kept.items():
            self._gammas[name].masked_fill_(keep, 0)

    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty to those of the weights that have one; return the penalty."""
        factor = self.strength.value * scale

        def add(target: Target) -> float:
            if target.gradient is None:
                return 0.0
            gamma, block = self._gammas[target.name], self.blocks[target.name]
            return add_gradient(target.weight, target.gradient, block, gamma, factor)

        return sum(parallel_map(add, self.targets)) / scale

    def shrink(self) -> None:
        """Take from every group the proximal step of the penalty: w <- w * max(0, 1 - rate / ||w||).

        `rate` is strength * gamma (Parikh & Boyd 2014, section 6.5.1). Done after a step of the optimizer, it
        shrinks groups at a pace that no optimizer rescales, as decoupled weight decay does.
        """

        def step(target: Target) -> None:
            gamma, block = self._gammas[target.name], self.blocks[target.name]
            shrink_groups(target.weight, block, gamma, self.strength.value)

        parallel_map(step, self.targets)

    def proximal_strength(self, steps: int, asked: float) -> float:
        """Return a strength whose proximal steps bring the share `asked` to its size in so many steps.

        With gamma = 1 / (n + epsilon) a norm n falls by strength * gamma a step, so n^2 / 2 + epsilon * n by
        the strength.
        """

        def way(target: Target) -> Tensor:
            norms, aim = self._norms(target), AIM * self._limits[target.name]
            left = (norms.square() - aim**2) / 2 + self.epsilon * (norms - aim)
            return left.masked_fill(self._gammas[target.name] == 0, 0).flatten()

        ways = torch.cat(parallel_map(way, self.targets))
        count = len(ways) if self.kept is not None else round(asked * len(ways))
        return max(float(ways.kthvalue(count).values) / steps if count else 0.0, _LEAST)

    def level(self, sizes: Tensor, asked: float) -> float:
        """Return the size of the largest group that is pushed, if some are spared; else as any penalty."""
        if self.kept is None or self.over:
            return super().level(sizes, asked)
        pushed = torch.cat([self._gammas[target.name].flatten() for target in self.targets]) > 0
        return float(sizes[pushed].max()) if pushed.any() else 0.0

    def sizes(self) -> Tensor:
        """Return the norms of all groups, flat, as multiples of the one below which they count as gone."""
        parts = parallel_map(lambda target: self._norms(target) / self._limits[target.name], self.targets)
        return torch.cat([part.flatten() for part in parts])

    def finish(self, step: int, asked: float) -> None:
        """Note how it ended; from here on there is nothing left of the penalty but its history."""
        super().finish(step, asked)
        self._gammas = {}

    def state(self) -> dict[str, Tensor]:
        """Return all that a run needs to go on as if it had not been interrupted."""
        limits = torch.tensor(list(self._limits.values()), dtype=torch.float64)
        gammas = {_GAMMA + name: gamma.cpu().contiguous() for name, gamma in self._gammas.items()}
        return super().state() | {"limits": limits} | gammas

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned for the same model; raise `ValueError` if it was another."""
        super().load_state(state)
        given = {key.removeprefix(_GAMMA): value for key, value in state.items() if key.startswith(_GAMMA)}
        self._gammas = {name: given[name].to(self._gammas[name]) for name in given}
        self._limits = dict(zip(self._limits, state["limits"].tolist(), strict=True))

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        given = {key: gamma.shape for key, gamma in state.items() if key.startswith(_GAMMA)}
        own = {_GAMMA + name: gamma.shape for name, gamma in self._gammas.items()}
        limits = state.get("limits")
        alike = given in ({}, own) and limits is not None and limits.shape == (len(self._limits),)
        return alike and super()._fits(state)

    def _norms(self, target: Target) -> Tensor:
        return measure_groups(target.weight, self.blocks[target.name])

    def _first_limits(self, threshold: float) -> dict[str, float]:
        """Return by weight the norm below which a group is gone; weights of zeros take the others' mean."""
        spreads = {target.name: self._spread(target) for target in self.targets}
        some = [spread for spread in spreads.values() if spread > 0]
        mean = sum(some) / len(some) if some else 1.0
        return {name: threshold * (spread or mean) for name, spread in spreads.items()}

    def _spread(self, target: Target) -> float:
        """Return the norm of an average group."""
        weight = target.weight.detach()
        return (self.blocks[target.name].size / weight.numel()) ** 0.5 * float(weight.float().norm())
