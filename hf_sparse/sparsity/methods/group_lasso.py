"""Pruning of groups made small by a reweighted group Lasso (Li et al. 2020, arXiv:2009.08065)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from hf_sparse.fields import Factor, Part, Point, one_of
from hf_sparse.sparsity.groups import SharedGroups, add_gradient, shorten_groups
from hf_sparse.sparsity.mask_update import kept_if_pruned
from hf_sparse.sparsity.methods.method import FORMER, Method, PruningRun, settings_as
from hf_sparse.sparsity.methods.penalty import PenalizedRun, Penalty, Strength
from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.patterns.block import Array, Block
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.sparsity.sharded.pieces import pieces_of
from hf_sparse.sparsity.sharded.weights import whole_weight
from hf_sparse.targets import Target, Targets

_GAMMA = "gamma."
# Of a strength, which is multiplied and so must not be zero.
_LEAST = 1e-12
# What Li et al. 2020 begin with.
_STRENGTH = 1e-4
# The power of the time left to proximal steps, as in the cubic schedule: most groups vanish early, while the
# learning rate is high and there is time to make up for them.
_POWER = 3.0
# Bytes of a number of float32.
_FULL = 4

AIM = 0.5
"""The size that proximal steps aim at, as a multiple of the size at which a group counts as gone: the last
part of the way to zero takes long."""


class GroupLassoRecipe(Part):
    """How groups are made small before they are removed; see `GroupLasso`.

    Without a `strength`, proximal steps begin with the one that suffices at an even pace, gradients with
    1e-4. With `spare` only groups that would be removed now are pushed.
    """

    step: Annotated[str, one_of(("proximal", "gradient"))] = "proximal"
    strength: Factor | None = None
    adapt: bool = True
    spare: bool = True
    epsilon: Factor = 1e-3
    threshold: Factor = 0.1
    refresh: Point = "5%"
    every: Point = "1%"


class GroupLasso(Penalty):
    """strength * sum_g gamma_g ||w_g||_2, with gamma_g = 1 / (||w_g||_2 + epsilon) of an earlier moment.

    Li et al. 2020 (arXiv:2009.08065) after Candes et al. 2008 (arXiv:0711.1612): small groups are pushed
    harder, so that the sum approaches the number of groups that are left. `gamma` is constant between calls
    of `refresh`. A group counts as gone once its root mean square is below `threshold` times that of its
    weight at the start.

    `kept` maps the norms of all groups, by the names of their weights, to booleans: groups that are spared.
    Their gamma is zero, so that the groups that stay are not made small.
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
        self._groups = SharedGroups(targets, blocks)
        self.group = self._groups.group
        self._gammas: dict[str, Tensor] = {}
        self._limits = self._first_limits(threshold)
        self.refresh()

    @property
    def over(self) -> bool:
        """Whether nothing is left of the penalty but its history."""
        return not self._gammas

    def refresh(self) -> None:
        """Compute gamma from the current weights."""
        norms = self._groups.norms()
        kept = {} if self.kept is None else self.kept(norms)
        self._gammas = {name: of.add_(self.epsilon).reciprocal_() for name, of in norms.items()}
        for name, keep in kept.items():
            self._gammas[name].masked_fill_(keep, 0)

    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty to those of the weights that have one; return the penalty."""
        factor, crossing = self.strength.value * scale, self._groups.crossing_norms()

        def add(target: Target) -> tuple[str, float]:
            if target.gradient is None or not target.gradient.numel():
                return target.name, 0.0
            gamma, block = self._gammas[target.name], self.blocks[target.name]
            norms = crossing.get(target.name)
            if norms is None:
                return target.name, add_gradient(target.weight, target.gradient, block, gamma, factor)
            rates = torch.where(norms > 0, factor * gamma / norms, 0.0)
            target.gradient.add_(self._groups.expand(target.name, rates).mul(target.weight.detach()))
            return target.name, factor * float((gamma * norms).sum())

        return self._groups.sum(dict(parallel_map(add, self.targets))) / scale

    def proximal_step(self) -> None:
        """Apply the proximal step of the penalty to every group: w <- w * max(0, 1 - rate / ||w||).

        `rate` is strength * gamma (Parikh & Boyd 2014, section 6.5.1). After a step of the optimizer it
        shortens groups at a pace that no optimizer rescales, as decoupled weight decay does.
        """
        crossing = self._groups.crossing_norms()

        def step(target: Target) -> None:
            gamma, block = self._gammas[target.name], self.blocks[target.name]
            norms = crossing.get(target.name)
            if not target.weight.numel():
                return
            if norms is None:
                shorten_groups(target.weight, block, gamma, self.strength.value)
                return
            factors = torch.where(norms > 0, 1 - self.strength.value * gamma / norms, 0.0).clamp_(min=0)
            target.weight.detach().mul_(self._groups.expand(target.name, factors).to(target.weight.dtype))

        parallel_map(step, self.targets)

    def proximal_strength(self, steps: int, asked: float) -> float:
        """Return the strength whose proximal steps make the share `asked` of groups small in `steps` steps.

        With gamma = 1 / (n + epsilon) a norm n falls by strength * gamma a step, so n^2 / 2 + epsilon * n by
        the strength.
        """

        def way(pair: tuple[str, Tensor]) -> Tensor:
            name, norms = pair
            aim = AIM * self._limits[name]
            left = (norms.square() - aim**2) / 2 + self.epsilon * (norms - aim)
            return self._groups.own(name, left.masked_fill(self._gammas[name] == 0, 0))

        ways = torch.cat(parallel_map(way, self._groups.norms().items()))
        (total,) = self._totals(len(ways))
        count = total if self.kept is not None else round(asked * total)
        return max(self._smallest(ways, count) / steps, _LEAST)

    def level(self, sizes: Tensor, asked: float) -> float:
        """Return the size of the largest group that is pushed; if none is spared, of those to be removed."""
        if self.kept is None or self.over:
            return super().level(sizes, asked)
        own = [self._groups.own(target.name, self._gammas[target.name]) for target in self.targets]
        pushed = sizes[torch.cat(own) > 0]
        largest = float(pushed.max()) if len(pushed) else 0.0
        return largest if self.group is None else self.group.largest(largest)

    def sizes(self) -> Tensor:
        """Return the norms of all groups, flat, as multiples of that below which a group counts as gone."""

        def sizes(pair: tuple[str, Tensor]) -> Tensor:
            name, norms = pair
            return self._groups.own(name, norms / self._limits[name])

        return torch.cat(parallel_map(sizes, self._groups.norms().items()))

    def finish(self, step: int, asked: float) -> None:
        """Record the state at the end; from here on only the history of the penalty is left."""
        super().finish(step, asked)
        self._gammas = {}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors from which an interrupted run goes on exactly, on any number of processes."""
        limits = torch.tensor(list(self._limits.values()), dtype=torch.float64)
        wholes = {name: self._groups.whole(name, gamma) for name, gamma in self._gammas.items()}
        gammas = {_GAMMA + name: gamma.cpu().contiguous() for name, gamma in wholes.items()}
        return super().state() | {"limits": limits} | gammas

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned for the same model; raise `ValueError` if it was another."""
        super().load_state(state)
        given = {key.removeprefix(_GAMMA): value for key, value in state.items() if key.startswith(_GAMMA)}
        self._gammas = {name: self._groups.cut(name, given[name]).to(self._gammas[name]) for name in given}
        self._limits = dict(zip(self._limits, state["limits"].tolist(), strict=True))

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        given = {key: gamma.shape for key, gamma in state.items() if key.startswith(_GAMMA)}
        own = {_GAMMA + name: shape for name, shape in self._groups.shapes().items() if name in self._gammas}
        limits = state.get("limits")
        alike = given in ({}, own) and limits is not None and limits.shape == (len(self._limits),)
        return alike and super()._fits(state)

    def _first_limits(self, threshold: float) -> dict[str, float]:
        """Return by weight the norm below which a group is gone; weights of zeros get the mean of others."""
        spreads = {target.name: self._spread(target) for target in self.targets}
        some = [spread for spread in spreads.values() if spread > 0]
        mean = sum(some) / len(some) if some else 1.0
        return {name: threshold * (spread or mean) for name, spread in spreads.items()}

    def _spread(self, target: Target) -> float:
        """Return the norm of an average group."""
        weight = whole_weight(target)
        return (self.blocks[target.name].size / weight.numel()) ** 0.5 * float(weight.float().norm())


class GroupLassoRun(PenalizedRun):
    """Group Lasso during a run: groups are shortened after each step of the optimizer, or by gradients."""

    penalty: GroupLasso
    traffic = {"penalty on groups, while it acts": 12}

    def __init__(self, run: PruningRun) -> None:
        settings = settings_as(GroupLassoRecipe, run.settings)
        self.proximal = settings.step == "proximal"
        if self.proximal:
            _require_full_precision(run.targets)
        pieces = pieces_of(run.targets, run.layout.blocks)
        kept = partial(kept_if_pruned, run.final_budgets, pieces=pieces) if settings.spare else None
        strength = settings.strength or _STRENGTH
        penalty = GroupLasso(
            run.targets, run.layout.blocks, strength, settings.epsilon, settings.threshold, kept
        )
        if self.proximal and settings.strength is None:
            even = penalty.proximal_strength(max(run.schedule.ramp_end, 1), run.asked)
            penalty.strength = Strength(_POWER * even if settings.adapt else even)
        super().__init__(run, penalty, settings.adapt, settings.every, settings.refresh)

    def gradients(self, step: int, scale: float, whole: Callable[[Target], Tensor] | None) -> float:
        """Add the gradient of the penalty; 0 with proximal steps, which are not part of the loss."""
        return 0.0 if self.proximal else super().gradients(step, scale, whole)

    def after_step(self, step: int) -> None:
        """Take the proximal step that follows the optimizer's step `step` + 1, if there is one."""
        if self.proximal and step < self.end:
            self.penalty.proximal_step()

    def pace(self, level: float) -> tuple[float, float]:
        """Return level and power; proximal steps shorten the square of every norm at a constant rate."""
        # With gamma = 1 / n.
        return ((level / AIM) ** 2, _POWER) if self.proximal else super().pace(level)


def squared(weight: Array, out: Array | None = None) -> Array:
    """Score a weight by its square: summed over a group, these rank groups by their norm."""
    return (np.square if isinstance(weight, np.ndarray) else torch.square)(weight, out=out)


def _require_full_precision(targets: Targets) -> None:
    """Raise `ValueError` for weights that proximal steps cannot make small."""
    if halves := [target for target in targets if target.weight.dtype.itemsize < _FULL]:
        raise ValueError(
            f"{halves[0].name} is {halves[0].weight.dtype}, which rounds away steps as short as those of "
            "group_lasso.step=proximal; load the model in float32 (bf16=True trains it well), or set "
            "sparsity.group_lasso.step=gradient"
        )


def _require_whole_groups(name: str, patterns: Sequence[Pattern]) -> None:
    """Raise `ValueError` for patterns that remove a part of every group."""
    if parts := [pattern for pattern in patterns if pattern.share is not None]:
        raise ValueError(
            f"method {name} makes whole groups small, and pattern {parts[0]} removes a part of "
            "every group; choose blocks such as 4x4, row or column, or method magnitude"
        )


group_lasso = Method(
    score=squared, settings=GroupLassoRecipe, start=GroupLassoRun, check=_require_whole_groups
)
FORMER[False, True] = group_lasso
