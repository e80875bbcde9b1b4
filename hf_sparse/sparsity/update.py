"""One recomputation of the masks."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.allocation import ALLOCATIONS, Budget
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.parallel import parallel_map
from hf_sparse.sparsity.patterns import Array, Block
from hf_sparse.sparsity.ranking import Ranking, keep_largest
from hf_sparse.sparsity.score import Score

# Weights scored at a time before they are pooled into blocks, so that the scores stay in cache.
_BAND = 1 << 17


def grow(masks: Masks, sparsity: float, score: Score, pattern: Block, allocation: str) -> bool:
    """Remove further weights, lowest scores first, until exactly the target share of blocks is gone.

    What was removed stays removed; where more than the target is gone already, nothing changes. Only the
    masks change, not the weights. Returns whether they did. Raises `FloatingPointError`
    where weights are NaN.
    """
    weights = {target.name: target.weight.detach() for target in masks.targets}
    blocks = {name: weight.numel() // pattern.size for name, weight in weights.items()}
    budgets = [
        budget
        for budget in ALLOCATIONS[allocation](blocks, sparsity)
        if budget.removed * pattern.size > sum(masks.removed(name) for name in budget.names)
    ]
    names = [name for budget in budgets for name in budget.names]
    if pattern.size == 1:
        values, rank_by = weights, score
    else:
        pooled = parallel_map(lambda name: _pool(weights[name], score, pattern), names)
        values, rank_by = dict(zip(names, pooled, strict=True)), _identity
    keeps = keep_largest([_ranking(budget, values) for budget in budgets], rank_by)

    def take_over(choice: tuple[Budget, list[Tensor]]) -> None:
        _take_over(masks, *choice, values, rank_by, pattern)

    parallel_map(take_over, zip(budgets, keeps, strict=True))
    return bool(budgets)


def _take_over(
    masks: Masks,
    budget: Budget,
    chosen: list[Tensor],
    values: Mapping[str, Tensor],
    rank_by: Score,
    pattern: Block,
) -> None:
    """Set the masks of one budget to the choice, ranked again if it would bring a removed weight back."""
    choices = {
        name: _grid(keep, masks, name, pattern) for name, keep in zip(budget.names, chosen, strict=True)
    }
    if not all(parallel_map(lambda name: masks.covers(name, choices[name], pattern), choices)):
        # Weights that are zero without being removed tie with those that are; these go strictly below.
        kept = {name: masks.kept_blocks(name, pattern) for name in budget.names}
        lowest = {name: rank_by(values[name]).masked_fill(~kept[name], -torch.inf) for name in budget.names}
        (chosen,) = keep_largest([_ranking(budget, lowest)], _identity)
        choices = {name: keep.view_as(kept[name]) for name, keep in zip(budget.names, chosen, strict=True)}
    parallel_map(lambda name: masks.set(name, pattern.expand(choices[name])), choices)


def _grid(keep: Tensor, masks: Masks, name: str, pattern: Block) -> Tensor:
    rows, columns = masks.shape(name)
    return keep.view(rows // pattern.rows, columns // pattern.columns)


def _ranking(budget: Budget, values: Mapping[str, Tensor]) -> Ranking:
    return Ranking([values[name] for name in budget.names], budget.removed)


def _pool(weight: Tensor, score: Score, pattern: Block) -> Tensor:
    if weight.device.type != "cpu":
        return pattern.pool(score(weight))
    array = (weight if weight.dtype in (torch.float32, torch.float64) else weight.float()).numpy()
    rows = max(_BAND // array.shape[1] // pattern.rows, 1) * pattern.rows
    bands = [pattern.pool(score(array[start : start + rows])) for start in range(0, array.shape[0], rows)]
    return torch.from_numpy(np.concatenate(bands))


def _identity(scores: Array, out: Array | None = None) -> Array:
    return scores
