"""Mask updates on the CPU in little memory beside the weights: what is ranked is read a chunk at a time.

Budgets are worked off one after another, and the new mask of a weight replaces the old one as soon as it is
known.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.allocation import Budget, split_by_bounds
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.streamed.ranked_scores import (
    BlockScores,
    RankedScores,
    Score,
    SingleScores,
    identity,
)
from hf_sparse.sparsity.topk import Kept, rank

# Bytes that an update may take: so many, or this share of the weights if that is more.
_SCRATCH, _SHARE = 1 << 26, 0.03
# The part of it for scores of blocks, so that they are computed once.
_HELD = 0.5
# Bytes of a thread's chunks and of its list of scores near the threshold.
_CHUNKS = 1 << 22


@dataclass(frozen=True)
class StreamedUpdate:
    """One update of masks by the scores of weights, or by scores of blocks by the names of the weights."""

    masks: Masks
    score: Score | Mapping[str, Tensor]
    blocks: Mapping[str, Block]

    def fits(self) -> bool:
        """Return whether all weights and scores are on the CPU."""
        given = self.score.values() if isinstance(self.score, Mapping) else ()
        tensors = [*(target.parameter for target in self.masks.targets), *given]
        return all(tensor.device.type == "cpu" for tensor in tensors)

    def grow(self, budgets: Sequence[Budget]) -> None:
        """Remove further blocks until the budgets are used."""
        self._run(self._grow, budgets)

    def choose(self, budgets: Sequence[Budget]) -> None:
        """Choose anew which blocks the budgets remove."""
        self._run(self._choose, budgets)

    def _run(self, act: Callable[[Budget, float], None], budgets: Sequence[Budget]) -> None:
        """Work off the budgets on as many threads as fit into memory."""
        threads = self._threads([name for budget in budgets for name in budget.names])
        # Bytes of scores of blocks that each thread may keep, so that they are computed once.
        hold = _HELD * self._allowed / max(min(threads, len(budgets)), 1)
        parallel_map(lambda budget: act(budget, hold), budgets, threads)

    def _grow(self, budget: Budget, hold: float) -> None:
        for part, chosen in self._choices(budget, hold):
            if not self._take_over(part, chosen):
                # Zeros that are not removed tie with those that are, which go strictly below.
                self._choose(part, hold, lowest=True)

    def _choose(self, budget: Budget, hold: float, lowest: bool = False) -> None:
        for part, chosen in self._choices(budget, hold, lowest):
            for name, kept in zip(part.names, chosen, strict=True):
                self._set(name, self._flags(name, kept), kept)

    def _take_over(self, budget: Budget, chosen: Sequence[Kept]) -> bool:
        """Set the masks of a budget, unless that would bring removed weights back; return whether it did."""
        if len(chosen) == 1:
            (name,), (kept,) = budget.names, chosen
            flags = self._flags(name, kept)
            if covered := self._covers(name, flags):
                self._set(name, flags, kept)
            return covered
        pairs = list(zip(budget.names, chosen, strict=True))
        at_risk = [pair for pair in pairs if self.masks.removed(pair[0])]
        # Computed twice if they do not fit into memory: all are checked before the first one is set.
        held: dict[str, np.ndarray | Tensor] | None = (
            {} if sum(self._bytes(name) for name, _ in at_risk) <= _HELD * self._allowed else None
        )
        threads = self._threads(budget.names)

        def check(pair: tuple[str, Kept]) -> bool:
            flags = self._flags(*pair)
            if held is not None:
                held[pair[0]] = flags
            return self._covers(pair[0], flags)

        def take_over(pair: tuple[str, Kept]) -> None:
            flags = None if held is None else held.pop(pair[0], None)
            self._set(pair[0], self._flags(*pair) if flags is None else flags, pair[1])

        if not all(parallel_map(check, at_risk, threads)):
            return False
        parallel_map(take_over, pairs, threads)
        return True

    def _flags(self, name: str, kept: Kept) -> np.ndarray | Tensor:
        """Return the new mask as bits if its rows are whole bytes in memory, else as booleans for blocks."""
        (rows, columns), block = self.masks.shape(name), self.blocks[name]
        if not self._is_plain(name) or (block.size > 1 and columns % 8):
            return kept.all()
        if block.size == 1:
            return kept.bits()
        return _bits_of_blocks(kept.all().view(rows // block.rows, columns // block.columns).numpy(), block)

    def _covers(self, name: str, flags: np.ndarray | Tensor) -> bool:
        if isinstance(flags, Tensor):
            return self.masks.covers(name, flags, self.blocks[name])
        return self.masks.covers_bits(name, flags)

    def _set(self, name: str, flags: np.ndarray | Tensor, kept: Kept) -> None:
        rows, columns = self.masks.shape(name)
        block = self.blocks[name]
        if isinstance(flags, Tensor):
            self.masks.set(name, block.expand(flags.view(rows // block.rows, columns // block.columns)))
        else:
            self.masks.set_bits(name, flags, kept.removed * block.size)

    def _is_plain(self, name: str) -> bool:
        """Return whether a weight lies in memory row by row."""
        return self._weight(name).is_contiguous()

    def _choices(
        self, budget: Budget, hold: float, lowest: bool = False
    ) -> Iterator[tuple[Budget, list[Kept]]]:
        """Return for a budget what is kept; it is split where a weight would lose too much."""
        scores, open_ = self._scores(budget, hold, lowest), [budget]
        while open_:
            part = open_.pop()
            kept = rank([scores[name] for name in part.names], part.removed)
            split = split_by_bounds(part, [own.removed for own in kept])
            if split == [part]:
                yield part, kept
            else:
                open_ += split

    def _scores(self, budget: Budget, hold: float, lowest: bool) -> dict[str, RankedScores]:
        """Return what is ranked, by name; with `lowest` what is removed already has minus infinity."""
        if isinstance(self.score, Mapping):
            given = {name: self.score[name].detach() for name in budget.names}
            if lowest:
                kept = {name: self.masks.kept_blocks(name, self.blocks[name]) for name in budget.names}
                given = {name: own.masked_fill(~kept[name], -np.inf) for name, own in given.items()}
            return {name: SingleScores(own, identity) for name, own in given.items()}
        size = 4 * sum(self._weight(name).numel() // self.blocks[name].size for name in budget.names)
        return {name: self._score(name, self.score, size <= hold, lowest) for name in budget.names}

    def _score(self, name: str, score: Score, hold: bool, lowest: bool) -> RankedScores:
        weight, mask = self._weight(name), self.masks.bits(name) if lowest else None
        if not self.blocks[name].pools:
            return SingleScores(weight, score, mask)
        pooled = BlockScores(weight, score, self.blocks[name], mask)
        return pooled.held() if hold else pooled

    def _weight(self, name: str) -> Tensor:
        return self.masks.target(name).weight.detach()

    @property
    def _allowed(self) -> float:
        return max(_SCRATCH, _SHARE * sum(target.weight.nbytes for target in self.masks.targets))

    def _threads(self, names: Sequence[str]) -> int:
        """Return on how many threads weights can be worked at within the memory that an update may take."""
        largest = max((_CHUNKS + self._bytes(name) for name in names), default=1)
        return max(min(int((1 - _HELD) * self._allowed / largest), torch.get_num_threads()), 1)

    def _bytes(self, name: str) -> int:
        """Return about how many bytes the new mask of a weight takes until it is set."""
        size, block = self._weight(name).numel(), self.blocks[name]
        bits = size // 8 if self._is_plain(name) else size
        return bits + (2 * size // block.size if block.size > 1 else 0)


def _bits_of_blocks(keep: np.ndarray, block: Block) -> np.ndarray:
    """Return the bits of a mask whose rows are whole bytes, from booleans for its blocks."""
    width = keep.shape[1] * block.columns // 8
    if block.columns % 8:
        # A byte of flags for eight blocks becomes as many bytes as a block has columns.
        wide = _widened(block.columns)[np.packbits(keep, axis=1)].view(np.uint8)[:, :width]
    else:
        wide = np.repeat(np.negative(keep.view(np.int8)).view(np.uint8), block.columns // 8, axis=1)
    # All rows of a block are alike.
    return np.repeat(wide, block.rows, axis=0).reshape(-1)


@lru_cache
def _widened(columns: int) -> np.ndarray:
    """Return for every byte of flags the bytes in which each flag stands `columns` times, as one item."""
    flags = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return np.packbits(np.repeat(flags, columns, axis=1), axis=1).view(f"V{columns}")[:, 0]
