"""Exact choice of the largest scores of one weight or of several together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.patterns.block import Array

# Scores per pass: 512 KiB of fp32 stay in a core's cache, and numpy's overhead per call is negligible.
_CHUNK = 1 << 17
_SAMPLE = 8192

NOT_NUMBERS = (
    "weights to be pruned are not numbers, so they cannot be ranked: training has diverged; "
    "lower the learning rate, or resume from an earlier checkpoint"
)


class Score(Protocol):
    """Maps weights to scores entry by entry, numpy arrays and tensors alike, into `out` where it is given."""

    def __call__(self, weight: Array, out: Array | None = None) -> Array: ...


@dataclass(frozen=True)
class Ranking:
    """Values that compete with each other; the `removed` ones with the smallest scores go."""

    values: Sequence[Tensor]
    removed: int


def keep_largest(rankings: Sequence[Ranking], score: Score) -> list[list[Tensor]]:
    """Return a flat boolean mask for each tensor of every ranking, True where the value is kept.

    Exactly `removed` entries of a ranking are False. Among equal scores the earlier entry goes first, in the
    order of the tensors and of their flat index, so that ties never change the count. Raises
    `FloatingPointError` if too many scores are NaN for that.
    """
    if any(values.device.type != "cpu" for ranking in rankings for values in ranking.values):
        return [_keep_on_device(ranking, score) for ranking in rankings]
    return parallel_map(lambda ranking: _keep_on_cpu(ranking, score), rankings)


def _keep_on_device(ranking: Ranking, score: Score) -> list[Tensor]:
    flat = torch.cat([score(values.detach().flatten()) for values in ranking.values])
    keep = torch.ones_like(flat, dtype=torch.bool)
    if ranking.removed:
        threshold = flat.kthvalue(ranking.removed).values
        keep = flat > threshold
        ties = (flat == threshold).nonzero().flatten()
        surplus = flat.numel() - ranking.removed - keep.sum()
        if surplus > ties.numel():
            raise FloatingPointError(NOT_NUMBERS)
        keep[ties[ties.numel() - surplus :]] = True
    return list(keep.split([values.numel() for values in ranking.values]))


def _keep_on_cpu(ranking: Ranking, score: Score) -> list[Tensor]:
    arrays = [_array(values) for values in ranking.values]
    total = sum(array.size for array in arrays)
    if ranking.removed == 0:
        return [torch.ones(array.size, dtype=torch.bool) for array in arrays]
    bracket = _bracket(arrays, total, ranking.removed, score)
    passes = parallel_map(lambda array: _split(array, score, *bracket), arrays)
    needed = total - ranking.removed - sum(split.sure for split in passes)
    if not 0 <= needed <= sum(split.scores.size for split in passes):
        # The sample missed the threshold, as in a few runs in a hundred thousand: rank every score.
        passes = parallel_map(lambda array: _split(array, score, -np.inf, np.inf), arrays)
        needed = total - ranking.removed
        if needed > sum(split.scores.size for split in passes):
            raise FloatingPointError(NOT_NUMBERS)
    chosen = _largest(np.concatenate([split.scores for split in passes]), needed)
    for split, keep in zip(
        passes, np.split(chosen, np.cumsum([split.scores.size for split in passes])), strict=False
    ):
        split.mask[split.index[keep]] = True
    return [torch.from_numpy(split.mask) for split in passes]


@dataclass(frozen=True)
class _Split:
    """One pass over a weight: `mask` is True where `sure` entries are kept in any case, the `scores` at
    `index` lie near the threshold.
    """

    mask: np.ndarray
    sure: int
    scores: np.ndarray
    index: np.ndarray


def _split(array: np.ndarray, score: Score, low: float, high: float) -> _Split:
    mask = np.empty(array.size, dtype=bool)
    # Scratch memory, allocated once: at this size fresh pages cost more than the arithmetic.
    chunk_scores, chunk_near = np.empty(_CHUNK, array.dtype), np.empty(_CHUNK, dtype=bool)
    scores, index = [], []
    for start in range(0, array.size, _CHUNK):
        values = array[start : start + _CHUNK]
        chunk = score(values, out=chunk_scores[: values.size])
        above = np.greater(chunk, high, out=mask[start : start + values.size])
        near = np.greater(chunk, low, out=chunk_near[: values.size])
        near = np.flatnonzero(np.logical_xor(near, above, out=near))
        scores.append(chunk[near])
        index.append(near + start)
    return _Split(mask, int(np.count_nonzero(mask)), np.concatenate(scores), np.concatenate(index))


def _bracket(arrays: Sequence[np.ndarray], total: int, removed: int, score: Score) -> tuple[float, float]:
    """Return two scores with the threshold almost surely between them, estimated from a sample.

    A full selection is not only slower: numpy's takes 20 times longer on tensors that are mostly zero.
    """
    # Odd, so that the stride does not follow the columns of matrices whose width is a power of two.
    stride = (total // _SAMPLE) | 1
    sample = score(np.concatenate([array[::stride] for array in arrays]))
    share, size = removed / total, sample.size
    margin = 4 * (share * (1 - share) / size) ** 0.5 + 2 / size
    first, last = int((share - margin) * size), int((share + margin) * size) + 1
    inside = [rank for rank in (first, last) if 0 <= rank < size]
    if inside:
        sample.partition(inside)
    return (sample[first] if first >= 0 else -np.inf), (sample[last] if last < size else np.inf)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of exactly `count` largest scores, later entries first among equals."""
    removed = scores.size - count
    if removed == 0:
        return np.ones(scores.size, dtype=bool)
    threshold = np.partition(scores, removed - 1)[removed - 1]
    keep = scores > threshold
    surplus = count - int(np.count_nonzero(keep))
    if surplus:
        keep[np.flatnonzero(scores == threshold)[-surplus:]] = True
    return keep


def _array(values: Tensor) -> np.ndarray:
    values = values.detach().flatten()
    # numpy lacks bfloat16, and its float16 arithmetic is emulated.
    return (values if values.dtype in (torch.float32, torch.float64) else values.float()).numpy()
