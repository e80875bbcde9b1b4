"""Mask updates: which blocks stay, by their scores and by how many are to be removed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.allocation import Budget, split_by_bounds
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.numpy_ops import count_nonzero, parallel_map
from hf_sparse.sparsity.patterns.block import Array, Block
from hf_sparse.sparsity.sharded.pieces import Piece, pieces_of
from hf_sparse.sparsity.sharded.update import choose_together, grow_together, kept_together
from hf_sparse.sparsity.topk import Ranking, Score, keep_largest

# Weights scored at a time before they are pooled into blocks, so that the scores stay in cache.
_BAND = 1 << 17


# Either a function from weights to scores, or the scores of all blocks by the names of the weights.
Scores = Score | Mapping[str, Tensor]


def grow(masks: Masks, budgets: Sequence[Budget], score: Scores, blocks: Mapping[str, Block]) -> bool:
    """Remove further weights, lowest scores first, until exactly as many are removed as the budgets say.

    What was removed stays removed; a budget that is exceeded already changes nothing. Only masks change, not
    weights. Returns whether masks changed. Raises `FloatingPointError` if weights that are NaN leave too few
    to rank.
    """
    due = [
        budget
        for budget in budgets
        if budget.removed > sum(masks.removed(name) // blocks[name].size for name in budget.names)
    ]
    budgets = _at_least_as_now(masks, due, blocks)
    if (pieces := pieces_of(masks.targets, blocks)) is not None:
        grow_together(masks, budgets, score, pieces)
        return bool(budgets)
    values, rank_by = _values(masks, budgets, score, blocks)

    def take_over(choice: tuple[Budget, list[Tensor]]) -> None:
        budget, keeps = choice
        if not all(map(masks.covers, budget.names, keeps, (blocks[name] for name in budget.names))):
            # Weights that are zero without being removed tie with those that are; these go strictly below.
            lowest = {name: _pool_kept(masks, name, score, blocks[name]) for name in budget.names}
            for part, chosen in _choices([budget], lowest, _identity):
                _set(masks, part, chosen, blocks)
        else:
            _set(masks, budget, keeps, blocks)

    parallel_map(take_over, _choices(budgets, values, rank_by))
    return bool(budgets)


def choose(masks: Masks, budgets: Sequence[Budget], score: Scores, blocks: Mapping[str, Block]) -> None:
    """Choose all masks anew, lowest scores first: removed weights may return, but no fewer are removed.

    Otherwise like `grow`.
    """
    budgets = _at_least_as_now(masks, budgets, blocks)
    if (pieces := pieces_of(masks.targets, blocks)) is not None:
        choose_together(masks, budgets, score, pieces)
        return
    values, rank_by = _values(masks, budgets, score, blocks)
    for budget, keeps in _choices(budgets, values, rank_by):
        _set(masks, budget, keeps, blocks)


def kept_if_pruned(
    budgets: Sequence[Budget], scores: Mapping[str, Tensor], pieces: Mapping[str, Piece] | None = None
) -> dict[str, Tensor]:
    """Return as booleans, shaped like the scores, which blocks would stay if the budgets were removed now.

    `pieces` are those of weights that processes share; see `kept_together`.
    """
    if pieces is not None:
        return kept_together(budgets, scores, pieces)
    return {
        name: keep.view(scores[name].shape)
        for budget, keeps in _choices(budgets, scores, _identity)
        for name, keep in zip(budget.names, keeps, strict=True)
    }


def _at_least_as_now(masks: Masks, budgets: Sequence[Budget], blocks: Mapping[str, Block]) -> list[Budget]:
    """Return budgets, raised to what is removed already: sparsity never falls."""
    now = [[masks.removed(name) // blocks[name].size for name in budget.names] for budget in budgets]
    return [
        replace(budget, removed=max(budget.removed, sum(gone)), most=tuple(map(max, budget.most, gone)))
        for budget, gone in zip(budgets, now, strict=True)
    ]


def _set(masks: Masks, budget: Budget, keeps: Sequence[Tensor], blocks: Mapping[str, Block]) -> None:
    """Set the masks of a budget from flat booleans for the blocks of each weight, True where kept."""

    def expand(pair: tuple[str, Tensor]) -> None:
        name, keep = pair
        rows, columns = masks.shape(name)
        block = blocks[name]
        masks.set(name, block.expand(keep.view(rows // block.rows, columns // block.columns)))

    parallel_map(expand, zip(budget.names, keeps, strict=True))


def _values(
    masks: Masks, budgets: Sequence[Budget], score: Scores, blocks: Mapping[str, Block]
) -> tuple[Mapping[str, Tensor], Score]:
    """Return what is ranked, weights or scores of blocks, and the function that scores it."""
    if isinstance(score, Mapping):
        return score, _identity
    weights = {target.name: target.weight.detach() for target in masks.targets}
    names = [name for budget in budgets for name in budget.names]
    if not any(blocks[name].pools for name in names):
        return weights, score
    pooled = parallel_map(lambda name: _pool(weights[name], score, blocks[name]), names)
    return dict(zip(names, pooled, strict=True)), _identity


def _choices(
    budgets: Sequence[Budget], values: Mapping[str, Tensor], rank_by: Score
) -> list[tuple[Budget, list[Tensor]]]:
    """Return for every budget what is kept; a budget is split where a weight would lose too much."""
    done, open_ = [], list(budgets)
    while open_:
        keeps = keep_largest([_ranking(budget, values) for budget in open_], rank_by)
        pairs, open_ = list(zip(open_, keeps, strict=True)), []
        for budget, chosen in pairs:
            parts = split_by_bounds(budget, [keep.numel() - count_nonzero(keep) for keep in chosen])
            if parts == [budget]:
                done.append((budget, chosen))
            else:
                open_ += parts
    return done


def _ranking(budget: Budget, values: Mapping[str, Tensor]) -> Ranking:
    return Ranking([values[name] for name in budget.names], budget.removed)


def _pool(weight: Tensor, score: Score, block: Block) -> Tensor:
    if weight.device.type != "cpu":
        # Squares of half-precision numbers may underflow.
        return block.pool(score(weight.to(torch.promote_types(weight.dtype, torch.float32))))
    array = (weight if weight.dtype in (torch.float32, torch.float64) else weight.float()).numpy()
    rows = max(_BAND // array.shape[1] // block.rows, 1) * block.rows
    bands = [block.pool(score(array[start : start + rows])) for start in range(0, array.shape[0], rows)]
    return torch.from_numpy(np.concatenate(bands))


def _pool_kept(masks: Masks, name: str, score: Scores, block: Block) -> Tensor:
    """Return the scores of a weight's blocks, those that are removed at minus infinity."""
    if isinstance(score, Mapping):
        return score[name].masked_fill(~masks.kept_blocks(name, block), -torch.inf)
    weight = next(target.weight for target in masks.targets if target.name == name).detach()
    weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    return block.pool(score(weight).masked_fill(~masks[name], -torch.inf))


def _identity(weight: Array, out: Array | None = None) -> Array:
    return weight
