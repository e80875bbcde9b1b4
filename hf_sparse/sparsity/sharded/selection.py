"""Exact choice of the largest scores over several processes, none of which sees those of the others.

The threshold is found by radix selection: scores are mapped to integers in the same order, and processes add
up histograms of 11 bits at a time, from the highest. Each exchange serves all rankings of a mask update.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from hf_sparse.shards import Group
from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.patterns.block import Array
from hf_sparse.sparsity.streamed.ranked_scores import Score
from hf_sparse.sparsity.topk import NOT_NUMBERS

# Scores at a time, and bits of a histogram.
_CHUNK, _CHUNK_ON_DEVICE, _BITS = 1 << 16, 1 << 24, 11
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True)
class Place:
    """Where values of a process lie among those of all, in row-major order.

    They are rows of `columns` values each; the first value is number `first`, and a row begins `width` after
    the one before.
    """

    first: int = 0
    columns: int = 1
    width: int = 1

    def index(self, positions: Tensor) -> Tensor:
        """Return the numbers of the values at flat positions."""
        return self.first + positions // self.columns * self.width + positions % self.columns


@dataclass(frozen=True)
class Share:
    """The values of one weight that this process ranks; `size` is how many all processes rank of it."""

    values: Tensor
    place: Place
    size: int


@dataclass(frozen=True)
class SharedRanking:
    """Values that compete over all processes; the `removed` ones with the smallest scores go."""

    shares: Sequence[Share]
    removed: int

    @property
    def size(self) -> int:
        return sum(share.size for share in self.shares)

    @property
    def offsets(self) -> list[int]:
        """Return how many values lie before those of each weight."""
        return list(accumulate((share.size for share in self.shares), initial=0))[:-1]


def keep_largest_together(
    rankings: Sequence[SharedRanking], score: Score, group: Group
) -> list[list[Tensor]]:
    """Return a flat boolean mask for each share of every ranking, True where the value is kept.

    The result is the one of `keep_largest` in one process, bit for bit. Every process must call it, with its
    shares of the same rankings. Raises `FloatingPointError`, on all processes, if too many scores are NaN.
    """
    active = [index for index, ranking in enumerate(rankings) if ranking.removed]
    found = dict(zip(active, _thresholds([rankings[index] for index in active], score, group), strict=True))
    # Among equal scores the first ones go.
    split = [index for index in active if found[index].kept_equals]
    ties = {index: _ties(rankings[index], score, found[index]) for index in split}
    bits = max((rankings[index].size for index in split), default=0).bit_length() + 1
    last = _select(
        [_NumbersOf(ties[index]) for index in split],
        [found[index].removed_equals for index in split],
        bits,
        group,
    )
    last_removed = {index: number for index, (number, _, _) in zip(split, last, strict=True)}

    def keep(index: int) -> list[Tensor]:
        if index not in found:
            return [_ones(share.values) for share in rankings[index].shares]
        masks = [_above(share, score, found[index]) for share in rankings[index].shares]
        if index in ties:
            for mask, (positions, numbers) in zip(masks, ties[index], strict=True):
                mask[positions[numbers > last_removed[index]]] = True
        return masks

    return parallel_map(keep, range(len(rankings)))


def kth_smallest(values: Tensor, count: int, group: Group) -> float:
    """Return the `count`-th smallest of the numbers that all processes have together, counted from 1."""
    numbers = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    (found,) = _thresholds([SharedRanking([Share(numbers, Place(), 0)], count)], _as_it_is, group)
    key = torch.tensor(found.key, dtype=_INTEGERS[found.dtype])
    return float(_in_order(key).view(found.dtype))


@dataclass(frozen=True)
class _Found:
    """The key of the last value to be removed, how many of its equals are removed, and how many are kept.

    `dtype` is the type that scores are compared in.
    """

    key: int
    removed_equals: int
    kept_equals: int
    dtype: torch.dtype


def _thresholds(rankings: Sequence[SharedRanking], score: Score, group: Group) -> list[_Found]:
    """Return for every ranking the key of its last value to be removed."""
    types = [_score_type(ranking, score) for ranking in rankings]
    found: dict[int, _Found] = {}
    for dtype in sorted(set(types), key=str):
        chosen = [index for index, own in enumerate(types) if own == dtype]
        streams = [_KeysOf(rankings[index], score, dtype) for index in chosen]
        counts = [rankings[index].removed for index in chosen]
        selected = _select(streams, counts, 8 * dtype.itemsize, group)
        found |= {index: _Found(*of, dtype) for index, of in zip(chosen, selected, strict=True)}
    # The key of NaN, which is below those of all numbers.
    if any(of.kept_equals and of.key == torch.iinfo(_INTEGERS[of.dtype]).min for of in found.values()):
        raise FloatingPointError(NOT_NUMBERS)
    return [found[index] for index in range(len(rankings))]


@dataclass(frozen=True)
class _KeysOf:
    """The keys of a ranking's values on this process, chunk by chunk."""

    ranking: SharedRanking
    score: Score
    dtype: torch.dtype

    def __call__(self) -> Iterator[Tensor]:
        for share in self.ranking.shares:
            for _, chunk in _chunks(share.values):
                yield _keys(_scores(chunk, self.score), self.dtype)

    @property
    def device(self) -> torch.device:
        return self.ranking.shares[0].values.device


def _select(
    streams: Sequence["_KeysOf | _NumbersOf"], counts: Sequence[int], bits: int, group: Group
) -> list[tuple[int, int, int]]:
    """Return the `counts[i]`-th smallest of the signed integers that `streams[i]` yields on all processes.

    With it come the numbers of its equals up to that one, and after it.
    """
    shift, left, equals = bits, list(counts), [0] * len(streams)
    # The leading bits of each result, as a signed integer; None before any is known.
    prefixes: list[int | None] = [None] * len(streams)
    while shift and streams:
        width = min(_BITS, shift)
        shift -= width
        histograms = group.sum(_histograms(streams, prefixes, shift, width)).cpu().numpy()
        for index, histogram in enumerate(histograms):
            so_far = np.cumsum(histogram)
            bucket = int(np.searchsorted(so_far, left[index]))
            left[index] -= int(so_far[bucket] - histogram[bucket])
            prefixes[index] = _lowest(prefixes[index], width) + bucket
            equals[index] = int(histogram[bucket])
    return [(key or 0, gone, equal - gone) for key, gone, equal in zip(prefixes, left, equals, strict=True)]


def _lowest(prefix: int | None, width: int) -> int:
    """Return the smallest prefix with `width` more bits."""
    return -(1 << (width - 1)) if prefix is None else prefix << width


def _histograms(
    streams: Sequence["_KeysOf | _NumbersOf"], prefixes: Sequence[int | None], shift: int, width: int
) -> Tensor:
    """Count, for each stream, the keys that begin with its prefix by their next `width` bits."""

    def count(index: int) -> Tensor:
        prefix, lowest = prefixes[index], _lowest(prefixes[index], width)
        counts = torch.zeros(1 << width, dtype=torch.int64, device=streams[index].device)
        for keys in streams[index]():
            places = (keys >> shift) - lowest
            if prefix is not None:
                places = _within(places, 1 << width)
            if places.numel():
                counts += torch.bincount(places, minlength=1 << width)
        return counts

    return torch.stack(parallel_map(count, range(len(streams))))


def _within(places: Tensor, size: int) -> Tensor:
    """Return the places from 0 to `size` - 1."""
    if places.device.type != "cpu":
        return places[(places >= 0) & (places < size)]
    # Without a sign, negative ones are too large as well. A choice by booleans takes longer.
    chosen = np.flatnonzero(places.numpy().view(f"u{places.element_size()}") < size)
    return places[torch.from_numpy(chosen)]


def _ties(ranking: SharedRanking, score: Score, found: _Found) -> list[tuple[Tensor, Tensor]]:
    """Return for each share the positions of the values with this key, and their numbers in the ranking."""
    ties = []
    for share, offset in zip(ranking.shares, ranking.offsets, strict=True):
        parts = [
            (_keys(_scores(chunk, score), found.dtype) == found.key).nonzero().flatten() + start
            for start, chunk in _chunks(share.values)
        ]
        empty = torch.empty(0, dtype=torch.int64, device=share.values.device)
        positions = torch.cat([empty, *parts])
        ties.append((positions, offset + share.place.index(positions)))
    return ties


@dataclass(frozen=True)
class _NumbersOf:
    """The numbers of equal values on this process."""

    ties: Sequence[tuple[Tensor, Tensor]]

    def __call__(self) -> Iterator[Tensor]:
        return (numbers for _, numbers in self.ties)

    @property
    def device(self) -> torch.device:
        return self.ties[0][1].device


def _above(share: Share, score: Score, found: _Found) -> Tensor:
    """Return which values are greater than the last one to be removed."""
    mask = _ones(share.values)
    for start, chunk in _chunks(share.values):
        keys = _keys(_scores(chunk, score), found.dtype)
        _greater(keys, found.key, mask[start : start + keys.numel()])
    return mask


def _score_type(ranking: SharedRanking, score: Score) -> torch.dtype:
    """Return the type that the scores of a ranking are compared in, the same on every process."""
    types = {_scores(share.values.flatten()[:0], score).dtype for share in ranking.shares}
    return torch.float64 if torch.float64 in types else torch.float32


def _chunks(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Return parts of values, flat, with their places."""
    flat, step = values.detach().flatten(), _CHUNK if values.device.type == "cpu" else _CHUNK_ON_DEVICE
    return ((start, flat[start : start + step]) for start in range(0, flat.numel(), step))


def _scores(values: Tensor, score: Score) -> Tensor:
    """Return the scores of a chunk, computed as in one process."""
    if values.device.type != "cpu":
        return score(values)
    exact = values if values.dtype in _INTEGERS else values.float()
    return torch.from_numpy(np.asarray(score(exact.numpy())))


def _keys(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Return signed integers in the order of the scores; equal scores have equal ones, NaN the smallest."""
    # The sum makes of -0 a 0, which is equal to it.
    scores = scores.to(dtype) + 0.0
    keys = _in_order(scores.view(_INTEGERS[dtype]))
    if scores.device.type != "cpu" or np.isnan(scores.numpy()).any():
        keys.masked_fill_(scores.isnan(), torch.iinfo(keys.dtype).min)
    return keys


def _in_order(bits: Tensor) -> Tensor:
    """Return the bits of numbers as signed integers in their order, or those integers as bits."""
    limits = torch.iinfo(bits.dtype)
    return (bits >> (limits.bits - 1)).bitwise_and_(limits.max).bitwise_xor_(bits)


def _greater(keys: Tensor, key: int, out: Tensor) -> None:
    """Write which keys are greater than another into booleans."""
    if keys.device.type == "cpu":
        np.greater(keys.numpy(), key, out=out.numpy())
    else:
        torch.gt(keys, key, out=out)


def _ones(values: Tensor) -> Tensor:
    return torch.ones(values.numel(), dtype=torch.bool, device=values.device)


def _as_it_is(weight: Array, out: Array | None = None) -> Array:
    return weight
