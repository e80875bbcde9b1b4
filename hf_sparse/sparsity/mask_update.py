"""Mask updates: which blocks stay, by their scores and by how many are to be removed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.allocation import Budget
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.numpy_ops import any_greater, count_nonzero, parallel_map
from hf_sparse.sparsity.patterns.block import Array, Block
from hf_sparse.sparsity.sharded.blocks import Piece, exchange, pieces_of
from hf_sparse.sparsity.sharded.selection import SharedRanking, keep_largest_together
from hf_sparse.sparsity.sharded.weights import whole_weight
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
    pieces = pieces_of(masks.targets, blocks)
    values, rank_by = _values(masks, budgets, score, blocks, pieces)
    choices = _choices(budgets, values, rank_by, pieces)
    if pieces is not None:
        _grow_together(masks, choices, score, pieces)
        return bool(budgets)

    def take_over(choice: tuple[Budget, list[Tensor]]) -> None:
        budget, keeps = choice
        if not all(map(masks.covers, budget.names, keeps, (blocks[name] for name in budget.names))):
            # Weights that are zero without being removed tie with those that are; these go strictly below.
            lowest = {name: _pool_kept(masks, name, score, blocks[name]) for name in budget.names}
            for part, chosen in _choices([budget], lowest, _identity):
                _set(masks, part, chosen, blocks)
        else:
            _set(masks, budget, keeps, blocks)

    parallel_map(take_over, choices)
    return bool(budgets)


def choose(masks: Masks, budgets: Sequence[Budget], score: Scores, blocks: Mapping[str, Block]) -> None:
    """Choose all masks anew, lowest scores first: removed weights may return, but no fewer are removed.

    Otherwise like `grow`.
    """
    budgets = _at_least_as_now(masks, budgets, blocks)
    pieces = pieces_of(masks.targets, blocks)
    values, rank_by = _values(masks, budgets, score, blocks, pieces)
    choices = _choices(budgets, values, rank_by, pieces)
    if pieces is not None:
        _set_together(masks, choices, pieces)
        return
    for budget, keeps in choices:
        _set(masks, budget, keeps, blocks)


def kept_if_pruned(
    budgets: Sequence[Budget], scores: Mapping[str, Tensor], pieces: Mapping[str, Piece] | None = None
) -> dict[str, Tensor]:
    """Return as booleans, shaped like the scores, which blocks would stay if the budgets were removed now.

    Where processes share weights (`pieces`), scores are those of the blocks in the part of this process, or
    of all blocks of a weight whose blocks are divided anew.
    """
    if pieces is None:
        choices = _choices(budgets, scores, _identity)
    else:
        own = {name: _ranked(scores[name], piece) for name, piece in pieces.items() if name in scores}
        choices = _exchanged(_choices(budgets, own, _identity, pieces), pieces)
    return {
        name: keep.view(scores[name].shape)
        for budget, keeps in choices
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


def _grow_together(
    masks: Masks,
    choices: Sequence[tuple[Budget, list[Tensor]]],
    score: Scores,
    pieces: Mapping[str, Piece],
) -> None:
    """Set the masks of weights that processes share; what was removed stays removed."""
    covered = [
        all(_covers(masks, pieces[name], keep) for name, keep in zip(budget.names, keeps, strict=True))
        for budget, keeps in _exchanged(choices, pieces)
    ]
    stays = next(iter(pieces.values())).group.agree(covered)
    again = [budget for (budget, _), stay in zip(choices, stays, strict=True) if not stay]
    lowest = {
        name: _pool_kept_together(masks, pieces[name], score) for budget in again for name in budget.names
    }
    done = [choice for choice, stay in zip(choices, stays, strict=True) if stay]
    _set_together(masks, done + _choices(again, lowest, _identity, pieces), pieces)


def _covers(masks: Masks, piece: Piece, keep: Tensor) -> bool:
    """Return whether all that would be kept here of a weight is kept already."""
    mask, kept = piece.expand(keep), masks[piece.target.name]
    return not any_greater(mask.view(torch.uint8), kept.view(torch.uint8))


def _set_together(
    masks: Masks, choices: Sequence[tuple[Budget, list[Tensor]]], pieces: Mapping[str, Piece]
) -> None:
    """Set the masks of weights that processes share, from flags of the blocks that this one has ranked."""
    for budget, keeps in _exchanged(choices, pieces):
        for name, keep in zip(budget.names, keeps, strict=True):
            masks.set(name, pieces[name].expand(keep))
    masks.count_removed()


def _exchanged(
    choices: Sequence[tuple[Budget, list[Tensor]]], pieces: Mapping[str, Piece]
) -> list[tuple[Budget, list[Tensor]]]:
    """Return the choices with all flags that this process needs; see `exchange`."""
    own = [pieces[name] for budget, _ in choices for name in budget.names]
    flags = iter(exchange(own, [keep for _, keeps in choices for keep in keeps]))
    return [(budget, [next(flags) for _ in keeps]) for budget, keeps in choices]


def _values(
    masks: Masks,
    budgets: Sequence[Budget],
    score: Scores,
    blocks: Mapping[str, Block],
    pieces: Mapping[str, Piece] | None,
) -> tuple[Mapping[str, Tensor], Score]:
    """Return what is ranked, weights or scores of blocks, and the function that scores it."""
    names = [name for budget in budgets for name in budget.names]
    if isinstance(score, Mapping):
        return score if pieces is None else {n: _ranked(score[n], pieces[n]) for n in names}, _identity
    weights = {target.name: target.weight.detach() for target in masks.targets}
    if not any(blocks[name].pools for name in names):
        return weights if pieces is None else {n: _ranked(weights[n], pieces[n]) for n in names}, score
    if pieces is not None:
        # One at a time, since processes exchange what they must in the same order.
        return {name: _pool_together(pieces[name], score) for name in names}, _identity
    pooled = parallel_map(lambda name: _pool(weights[name], score, blocks[name]), names)
    return dict(zip(names, pooled, strict=True)), _identity


def _choices(
    budgets: Sequence[Budget],
    values: Mapping[str, Tensor],
    rank_by: Score,
    pieces: Mapping[str, Piece] | None = None,
) -> list[tuple[Budget, list[Tensor]]]:
    """Return for every budget what is kept; a budget is split where a weight would lose too much."""
    done, open_ = [], list(budgets)
    while open_:
        keeps = _keep_largest(open_, values, rank_by, pieces)
        losses = _losses(keeps, pieces)
        tried, open_ = list(zip(open_, keeps, losses, strict=True)), []
        for budget, chosen, lost in tried:
            parts = _within_bounds(budget, lost)
            if parts == [budget]:
                done.append((budget, chosen))
            else:
                open_ += parts
    return done


def _keep_largest(
    budgets: Sequence[Budget],
    values: Mapping[str, Tensor],
    rank_by: Score,
    pieces: Mapping[str, Piece] | None,
) -> list[list[Tensor]]:
    if pieces is None:
        own = [Ranking([values[name] for name in budget.names], budget.removed) for budget in budgets]
        return keep_largest(own, rank_by)
    shared = [
        SharedRanking([pieces[name].share(values[name]) for name in budget.names], budget.removed)
        for budget in budgets
    ]
    return keep_largest_together(shared, rank_by, next(iter(pieces.values())).group)


def _losses(keeps: Sequence[Sequence[Tensor]], pieces: Mapping[str, Piece] | None) -> list[list[int]]:
    """Return for every budget how many blocks each of its weights loses, over all processes."""
    here = [[keep.numel() - count_nonzero(keep) for keep in chosen] for chosen in keeps]
    if pieces is None:
        return here
    group = next(iter(pieces.values())).group
    totals = iter(group.totals([count for counts in here for count in counts]))
    return [[next(totals) for _ in counts] for counts in here]


def _within_bounds(budget: Budget, lost: Sequence[int]) -> list[Budget]:
    """Return budgets of their own for weights that lost too much; the other weights lose the difference."""
    over = [index for index, (count, most) in enumerate(zip(lost, budget.most, strict=True)) if count > most]
    if not over:
        return [budget]
    bounded = [Budget((budget.names[i],), budget.most[i], (budget.most[i],)) for i in over]
    rest = [index for index in range(len(lost)) if index not in over]
    left = budget.removed - sum(part.removed for part in bounded)
    names, most = tuple(budget.names[i] for i in rest), tuple(budget.most[i] for i in rest)
    return [*bounded, Budget(names, left, most)]


def _ranked(values: Tensor, piece: Piece) -> Tensor:
    """Return the values that this process ranks, flat, of those for all that it holds."""
    return piece.own(values) if piece.part is None else values.flatten()


def _pool(weight: Tensor, score: Score, block: Block, width: int | None = None) -> Tensor:
    """Return the scores of blocks; `width` is the number of columns of the whole weight."""
    if weight.device.type != "cpu":
        # Squares of half-precision numbers may underflow.
        return block.pool(score(weight.to(torch.promote_types(weight.dtype, torch.float32))))
    array = (weight if weight.dtype in (torch.float32, torch.float64) else weight.float()).numpy()
    rows = max(_BAND // (width or array.shape[1]) // block.rows, 1) * block.rows
    bands = [block.pool(score(array[start : start + rows])) for start in range(0, array.shape[0], rows)]
    return torch.from_numpy(np.concatenate(bands))


def _pool_together(piece: Piece, score: Score) -> Tensor:
    # Sums of blocks have the same bits only if they are made of the same bands of rows.
    return piece.pooled(lambda weight: _pool(weight, score, piece.block, piece.target.shape[1]))


def _pool_kept(masks: Masks, name: str, score: Scores, block: Block) -> Tensor:
    """Return the scores of a weight's blocks, those that are removed at minus infinity."""
    if isinstance(score, Mapping):
        return score[name].masked_fill(~masks.kept_blocks(name, block), -torch.inf)
    weight = next(target.weight for target in masks.targets if target.name == name).detach()
    return _pool_within(weight, masks[name], score, block)


def _pool_kept_together(masks: Masks, piece: Piece, score: Scores) -> Tensor:
    """Return the same for the blocks that this process ranks, flat."""
    name, block, mask = piece.target.name, piece.block, masks.whole(piece.target.name)
    if isinstance(score, Mapping):
        kept = piece.own(mask[:: block.rows, :: block.columns])
        return _ranked(score[name], piece).masked_fill(~kept, -torch.inf)
    return piece.own(_pool_within(whole_weight(piece.target), mask, score, block))


def _pool_within(weight: Tensor, mask: Tensor, score: Score, block: Block) -> Tensor:
    weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    return block.pool(score(weight).masked_fill(~mask, -torch.inf))


def _identity(weight: Array, out: Array | None = None) -> Array:
    return weight
