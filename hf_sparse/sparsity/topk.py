"""Exact choice of the largest scores of one weight or of several together, in little memory.

The scores are read several times rather than kept: a sample brackets the threshold, the scores in the bracket
give it, and equal scores are settled by their count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.streamed.mask_storage import pack_flags
from hf_sparse.sparsity.streamed.ranked_scores import CHUNK, RankedScores, Score, SingleScores, identity
from hf_sparse.sparsity.streamed.score_tally import ScoreTally

# Scores in a sample: so many, or one in so many if that is more.
_SAMPLE, _SHARE = 8192, 512

NOT_NUMBERS = (
    "weights to be pruned are not numbers, so they cannot be ranked: training has diverged; "
    "lower the learning rate, or resume from an earlier checkpoint"
)


@dataclass(frozen=True)
class Ranking:
    """Values that compete with each other; the `removed` ones with the smallest scores go."""

    values: Sequence[Tensor]
    removed: int


@dataclass(frozen=True)
class Kept:
    """Which scores of one tensor are kept, computed from the scores whenever it is asked.

    Scores above `threshold` are kept, and those equal to it but for the first `ties`; all without a
    threshold. `removed` is how many are not kept.
    """

    scores: RankedScores
    removed: int = 0
    threshold: float | None = None
    ties: int = 0

    def chunks(self) -> Iterator[np.ndarray]:
        """Return booleans in the order of the scores, a chunk at a time, True where kept."""
        if self.threshold is None:
            for start in range(0, self.scores.size, CHUNK):
                yield np.ones(min(CHUNK, self.scores.size - start), dtype=bool)
            return
        left = self.ties
        for scores in self.scores.chunks():
            if left:
                keep, ties = scores > self.threshold, np.flatnonzero(scores == self.threshold)
                keep[ties[left:]] = True
                left -= min(left, ties.size)
                yield keep
            else:
                yield scores >= self.threshold

    def all(self) -> Tensor:
        """Return flat booleans in the order of the scores, True where kept."""
        keep = np.empty(self.scores.size, dtype=bool)
        start = 0
        for part in self.chunks():
            keep[start : start + part.size] = part
            start += part.size
        return torch.from_numpy(keep)

    def bits(self) -> np.ndarray:
        """Return the same at one bit each, as `numpy.packbits` does, on the CPU."""
        return pack_flags(self.chunks(), self.scores.size)


def keep_largest(rankings: Sequence[Ranking], score: Score) -> list[list[Tensor]]:
    """Return a flat boolean mask for each tensor of every ranking, True where the value is kept.

    Exactly `removed` entries of a ranking are False. Among equal scores the earlier entry goes first, in the
    order of the tensors and of their flat index, so that ties never change the count. Raises
    `FloatingPointError` if too many scores are NaN for that.
    """
    if any(values.device.type != "cpu" for ranking in rankings for values in ranking.values):
        return [_keep_on_device(ranking, score) for ranking in rankings]
    return parallel_map(lambda ranking: _keep_on_cpu(ranking, score), rankings)


def rank(scores: Sequence[RankedScores], removed: int) -> list[Kept]:
    """Return which scores on the CPU are kept if the `removed` smallest go; otherwise like `keep_largest`."""
    needed = sum(own.size for own in scores) - removed
    if removed == 0:
        return [Kept(own) for own in scores]
    if needed == 0:
        return [Kept(own, own.size, np.inf, own.size) for own in scores]
    threshold, kept_ties, counts = _threshold(scores, removed, needed)
    # Not earlier: what found the threshold has left the memory by now.
    counts = counts or parallel_map(partial(_count, threshold=threshold), scores)
    cuts, left = [], sum(equal for _, equal in counts) - kept_ties
    for own, (above, equal) in zip(scores, counts, strict=True):
        cuts.append(Kept(own, own.size - above - equal + min(left, equal), threshold, min(left, equal)))
        left -= min(left, equal)
    return cuts


def _keep_on_device(ranking: Ranking, score: Score) -> list[Tensor]:
    flat = torch.cat([score(values.detach().flatten()) for values in ranking.values])
    return list(_keep_all(flat, ranking.removed).split([values.numel() for values in ranking.values]))


def _keep_all(flat: Tensor, removed: int) -> Tensor:
    keep = torch.ones_like(flat, dtype=torch.bool)
    if removed:
        threshold = flat.kthvalue(removed).values
        keep = flat > threshold
        ties = (flat == threshold).nonzero().flatten()
        surplus = flat.numel() - removed - keep.sum()
        if surplus > ties.numel():
            raise FloatingPointError(NOT_NUMBERS)
        keep[ties[ties.numel() - surplus :]] = True
    return keep


def _keep_on_cpu(ranking: Ranking, score: Score) -> list[Tensor]:
    scores = [SingleScores(values, score) for values in ranking.values]
    return [kept.all() for kept in rank(scores, ranking.removed)]


def _threshold(
    scores: Sequence[RankedScores], removed: int, needed: int
) -> tuple[float, int, list[tuple[int, int]] | None]:
    """Return the lowest score that is kept and how many scores equal to it are kept.

    The last is, for each tensor, how many of its scores are above that score and how many are equal to it;
    None if that is not known yet.
    """
    total, dtype = removed + needed, np.result_type(*(own.dtype for own in scores))
    low, high = _bracket(scores, total, removed, identity)
    largest = np.finfo(dtype).max
    while True:
        # Patterns protect weights by infinite scores, half of all for 2:4: counted, not tallied.
        tally = ScoreTally(dtype, min(low, largest), min(high, largest), total)
        over = parallel_map(partial(_sift, tally=tally), enumerate(scores))
        above = sum(over)
        if tally.high == largest and above >= needed:
            return np.inf, needed, [(0, infinite) for infinite in over]
        if not above < needed <= above + tally.count:
            if tally.low == -np.inf and tally.high >= largest:
                # Scores of minus infinity are in no bracket. Only NaN is not above or equal to them.
                every = parallel_map(partial(_count, threshold=-np.inf), scores)
                if needed > sum(more + equal for more, equal in every):
                    raise FloatingPointError(NOT_NUMBERS)
                return -np.inf, needed - above - tally.count, every
            # The sample missed the threshold, as in a few runs in a hundred thousand: tally every score.
            low, high = -np.inf, np.inf
            continue
        found = tally.find(needed - above)
        if found.equal is not None:
            counts = None
            if found.shares is not None:
                shares = (found.shares.get(index, (0, 0)) for index in range(len(scores)))
                counts = [(most + more, equal) for most, (more, equal) in zip(over, shares, strict=True)]
            return found.high, needed - above - found.above, counts
        low, high = found.low, found.high


def _sift(numbered: tuple[int, RankedScores], tally: ScoreTally) -> int:
    """Add the scores in the bracket to a tally; return how many are above it."""
    source, scores = numbered
    count, masks = 0, np.empty((2, 0), dtype=bool)
    for chunk in scores.chunks():
        if chunk.size > masks.shape[1]:
            masks = np.empty((2, chunk.size), dtype=bool)
        above = np.greater(chunk, tally.high, out=masks[0, : chunk.size])
        near = np.greater(chunk, tally.low, out=masks[1, : chunk.size])
        count += int(np.count_nonzero(above))
        tally.add(chunk[np.flatnonzero(np.logical_xor(near, above, out=near))], source)
    return count


def _count(scores: RankedScores, threshold: float) -> tuple[int, int]:
    """Return how many scores are above the threshold, and how many are equal to it."""
    above = least = 0
    for chunk in scores.chunks():
        above += int(np.count_nonzero(chunk > threshold))
        least += int(np.count_nonzero(chunk >= threshold))
    return above, least - above


def _bracket(
    scores: Sequence[RankedScores] | Sequence[np.ndarray], total: int, removed: int, score: Score
) -> tuple[float, float]:
    """Return two scores with the threshold almost surely between them, estimated from a sample.

    A full selection is not only slower: numpy's takes 20 times longer on tensors that are mostly zero.
    """
    # Odd, so that the stride does not follow the columns of matrices whose width is a power of two.
    stride = (total // max(_SAMPLE, total // _SHARE)) | 1
    sample = score(np.concatenate([own[::stride] for own in scores]))
    share, size = removed / total, sample.size
    margin = 4 * (share * (1 - share) / size) ** 0.5 + 2 / size
    first, last = int((share - margin) * size), int((share + margin) * size) + 1
    inside = [rank for rank in (first, last) if 0 <= rank < size]
    if inside:
        sample.partition(inside)
    return (sample[first] if first >= 0 else -np.inf), (sample[last] if last < size else np.inf)
