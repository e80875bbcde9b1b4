"""Mask updates of weights that several processes share: the masks are those of one process, bit for bit."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hf_sparse.shards import Group
from hf_sparse.sparsity.allocation import Budget, split_by_bounds
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.numpy_ops import any_greater, count_nonzero
from hf_sparse.sparsity.patterns.block import Array, Block
from hf_sparse.sparsity.sharded.pieces import Piece, exchange
from hf_sparse.sparsity.sharded.selection import SharedRanking, keep_largest_together
from hf_sparse.sparsity.topk import Score

# Weights scored at a time before they are pooled into blocks, as in one process.
_BAND = 1 << 17

Pieces = Mapping[str, Piece]
Scores = Score | Mapping[str, Tensor]
Choice = tuple[Budget, list[Tensor]]


def grow_together(masks: Masks, budgets: Sequence[Budget], score: Scores, pieces: Pieces) -> None:
    """Remove further blocks until the budgets are used; what was removed stays removed."""
    choices = _choices(budgets, *_values(masks, budgets, score, pieces), pieces)
    covered = [
        all(_covers(masks, pieces[name], keep) for name, keep in zip(budget.names, keeps, strict=True))
        for budget, keeps in _exchanged(choices, pieces)
    ]
    stays = _group(pieces).agree(covered)
    done = [choice for choice, stay in zip(choices, stays, strict=True) if stay]
    again = [budget for (budget, _), stay in zip(choices, stays, strict=True) if not stay]
    # Zeros that are not removed tie with those that are, which go strictly below.
    lowest = {
        name: _values_of(masks, pieces[name], score, lowest=True) for budget in again for name in budget.names
    }
    _set(masks, done + _choices(again, lowest, _identity, pieces), pieces)


def choose_together(masks: Masks, budgets: Sequence[Budget], score: Scores, pieces: Pieces) -> None:
    """Choose anew which blocks the budgets remove."""
    _set(masks, _choices(budgets, *_values(masks, budgets, score, pieces), pieces), pieces)


def kept_together(
    budgets: Sequence[Budget], scores: Mapping[str, Tensor], pieces: Pieces
) -> dict[str, Tensor]:
    """Return as booleans, shaped like the scores, which blocks would stay if the budgets were removed now.

    Scores are those of the blocks in this part of a weight, or of all its blocks if they are divided anew.
    """
    own = {name: _ranked(scores[name], piece) for name, piece in pieces.items() if name in scores}
    return {
        name: keep.view(scores[name].shape)
        for budget, keeps in _exchanged(_choices(budgets, own, _identity, pieces), pieces)
        for name, keep in zip(budget.names, keeps, strict=True)
    }


def _group(pieces: Pieces) -> Group:
    return next(iter(pieces.values())).group


def _covers(masks: Masks, piece: Piece, keep: Tensor) -> bool:
    """Return whether all that would be kept here of a weight is kept already."""
    mask, kept = piece.expand(keep), masks[piece.target.name]
    return not any_greater(mask.view(torch.uint8), kept.view(torch.uint8))


def _set(masks: Masks, choices: Sequence[Choice], pieces: Pieces) -> None:
    for budget, keeps in _exchanged(choices, pieces):
        for name, keep in zip(budget.names, keeps, strict=True):
            masks.set(name, pieces[name].expand(keep))
    masks.count_removed()


def _exchanged(choices: Sequence[Choice], pieces: Pieces) -> list[Choice]:
    """Return the choices with all flags that this process needs; see `exchange`."""
    own = [pieces[name] for budget, _ in choices for name in budget.names]
    flags = iter(exchange(own, [keep for _, keeps in choices for keep in keeps]))
    return [(budget, [next(flags) for _ in keeps]) for budget, keeps in choices]


def _values(
    masks: Masks, budgets: Sequence[Budget], score: Scores, pieces: Pieces
) -> tuple[dict[str, Tensor], Score]:
    """Return what this process ranks, weights or scores of blocks, and the function that scores it."""
    names = [name for budget in budgets for name in budget.names]
    if isinstance(score, Mapping) or any(pieces[name].block.pools for name in names):
        # One weight at a time: processes exchange what they must in the same order.
        return {name: _values_of(masks, pieces[name], score) for name in names}, _identity
    return {name: _ranked(pieces[name].target.weight.detach(), pieces[name]) for name in names}, score


def _values_of(masks: Masks, piece: Piece, score: Scores, lowest: bool = False) -> Tensor:
    """Return the scores of the blocks that this process ranks, flat; removed ones below all if `lowest`."""
    name, block, columns = piece.target.name, piece.block, piece.target.shape[1]
    if not isinstance(score, Mapping):
        mask = (masks[name] if piece.adds_up_here else masks.whole(name)) if lowest else None
        return piece.pooled(lambda weight: _pool(weight, score, block, columns, mask))
    scores = _ranked(score[name], piece)
    if not lowest:
        return scores
    kept = masks.whole(name)[:: block.rows, :: block.columns]
    return scores.masked_fill(~piece.own(kept), -torch.inf)


def _choices(
    budgets: Sequence[Budget], values: Mapping[str, Tensor], rank_by: Score, pieces: Pieces
) -> list[Choice]:
    """Return for every budget what is kept; a budget is split where a weight would lose too much."""
    done, open_ = list[Choice](), list(budgets)
    while open_:
        rankings = [
            SharedRanking([pieces[name].share(values[name]) for name in budget.names], budget.removed)
            for budget in open_
        ]
        keeps = keep_largest_together(rankings, rank_by, _group(pieces))
        here = [keep.numel() - count_nonzero(keep) for chosen in keeps for keep in chosen]
        totals = iter(_group(pieces).totals(here))
        tried, open_ = list(zip(open_, keeps, strict=True)), []
        for budget, chosen in tried:
            parts = split_by_bounds(budget, [next(totals) for _ in chosen])
            if parts == [budget]:
                done.append((budget, chosen))
            else:
                open_ += parts
    return done


def _ranked(values: Tensor, piece: Piece) -> Tensor:
    """Return the values that this process ranks, flat, of those for all that it holds."""
    return piece.own(values) if piece.part is None else values.flatten()


def _pool(weight: Tensor, score: Score, block: Block, width: int, mask: Tensor | None) -> Tensor:
    """Return the scores of blocks, removed weights at minus infinity if there is a mask.

    Sums of blocks have the same bits only if they are made of the same bands of rows: those of the whole
    weight, which has `width` columns.
    """
    if weight.device.type != "cpu":
        # Squares of half-precision numbers may underflow.
        every = score(weight.to(torch.promote_types(weight.dtype, torch.float32)))
        return block.pool(every if mask is None else every.masked_fill(~mask, -torch.inf))
    array = (weight if weight.dtype in (torch.float32, torch.float64) else weight.float()).numpy()
    rows, bands = max(_BAND // width // block.rows, 1) * block.rows, []
    for start in range(0, array.shape[0], rows):
        scores = score(array[start : start + rows])
        if mask is not None:
            scores = np.where(mask[start : start + rows].numpy(), scores, -np.inf)
        bands.append(block.pool(scores))
    return torch.from_numpy(np.concatenate(bands))


def _identity(weight: Array, out: Array | None = None) -> Array:
    return weight
