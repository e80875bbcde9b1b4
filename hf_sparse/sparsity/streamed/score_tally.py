"""The scores in a bracket, as a list while they are few and as a histogram beyond."""

from dataclasses import dataclass
from threading import Lock

import numpy as np

# Scores that are listed: so many, or one in so many of all if that is more.
_LIST, _SHARE = 1 << 20, 256
_BINS_LOG2 = 16
# Scores that are sorted into bins at a time: their keys and places take six times their memory.
_PART = 1 << 17


@dataclass(frozen=True)
class Found:
    """A narrower bracket, (low, high], with `above` scores of the tally above it.

    `equal` is how many scores are equal to `high` if all in the bracket are; None if they differ. `shares`
    says for each source how many of its scores are above and how many are equal, where the tally knows.
    """

    low: float
    high: float
    above: int
    equal: int | None
    shares: dict[int, tuple[int, int]] | None = None


class ScoreTally:
    """Collects the scores in (low, high] from several threads and finds the one of a rank.

    Args:
        dtype: float32 or float64.
        low: End of the bracket, not part of it.
        high: Other end, part of it.
        total: Number of scores that are ranked, of which those in the bracket are few.
    """

    def __init__(self, dtype: np.dtype, low: float, high: float, total: int) -> None:
        self.low, self.high = (-np.inf if np.isnan(low) else low), (np.inf if np.isnan(high) else high)
        self.count = 0
        self._dtype = np.dtype(dtype)
        self._list = np.empty(min(max(_LIST, total // _SHARE), total), self._dtype)
        self._listed = 0
        # Which source each part of the list came from, and where the part ends.
        self._parts: list[tuple[int, int]] = []
        self._lock = Lock()
        first, last = (int(key) for key in _keys(np.array([self.low, self.high], self._dtype)))
        self._first, self._last = first, last
        self._shift = max((last - first).bit_length() - _BINS_LOG2, 0)
        self._bins: np.ndarray | None = None
        # The bits of all keys that a bin does not tell apart; 0 if its scores are all equal.
        self._loose = 0

    def add(self, scores: np.ndarray, source: int = 0) -> None:
        """Add scores in the bracket; `source` is the number of the tensor they come from."""
        with self._lock:
            self.count += scores.size
            if self._listed + scores.size > self._list.size:
                self._sort_into_bins(self._list[: self._listed])
                self._listed, self._parts = 0, []
                if scores.size > self._list.size:
                    self._sort_into_bins(scores)
                    return
            self._list[self._listed : self._listed + scores.size] = scores
            self._listed += scores.size
            self._parts.append((source, self._listed))

    def find(self, rank: int) -> Found:
        """Return a narrower bracket around the score of a rank, 1 for the largest; call it once."""
        if self._bins is None:
            scores = self._list[: self._listed]
            # A copy, since the places in the list tell the sources.
            found = np.partition(scores, scores.size - rank)[scores.size - rank]
            shares = self._shares(found)
            above, equal = map(sum, zip(*shares.values(), strict=True))
            return Found(found, found, above, equal, shares)
        self._sort_into_bins(self._list[: self._listed])
        reached = np.cumsum(self._bins[::-1])
        place = int(np.searchsorted(reached, rank))
        number = self._bins.size - 1 - place
        above, equal = int(reached[place] - self._bins[number]), int(self._bins[number])
        start = (self._first >> self._shift) + number << self._shift
        if not self._loose & (1 << self._shift) - 1:
            value = self._value(start)
            return Found(value, value, above, equal)
        end = start + (1 << self._shift) - 1
        return Found(self._value(max(start - 1, self._first)), self._value(min(end, self._last)), above, None)

    def _sort_into_bins(self, scores: np.ndarray) -> None:
        if self._bins is None:
            self._bins = np.zeros((self._last >> self._shift) - (self._first >> self._shift) + 1, np.int64)
        for part in np.array_split(scores, -(-scores.size // _PART) or 1):
            keys = _keys(part)
            if part.size:
                self._loose |= int(np.bitwise_or.reduce(keys))
            places = (keys >> keys.dtype.type(self._shift)) - keys.dtype.type(self._first >> self._shift)
            self._bins += np.bincount(places.astype(np.int64), minlength=self._bins.size)

    def _shares(self, value: float) -> dict[int, tuple[int, int]]:
        """Return by source how many of the listed scores are above a value, and how many are equal to it."""
        shares: dict[int, tuple[int, int]] = {}
        start = 0
        for source, stop in self._parts:
            part, (above, equal) = self._list[start:stop], shares.get(source, (0, 0))
            more, same = int(np.count_nonzero(part > value)), int(np.count_nonzero(part == value))
            shares[source] = (above + more, equal + same)
            start = stop
        return shares

    def _value(self, key: int) -> float:
        """Return the score with a key; -0 has one below that of 0 and would exclude it from a bracket."""
        bits = 8 * self._dtype.itemsize
        sign = 1 << bits - 1
        key -= key == sign - 1
        pattern = key ^ sign if key & sign else ~key & (1 << bits) - 1
        return np.array([pattern], f"u{self._dtype.itemsize}").view(self._dtype)[0]


def _keys(scores: np.ndarray) -> np.ndarray:
    """Return unsigned integers in the order of the scores, equal for equal scores."""
    kind = np.dtype(f"u{scores.dtype.itemsize}").type
    # The sum turns -0 into 0.
    bits = (scores + scores.dtype.type(0)).view(kind)
    sign = kind(1 << 8 * scores.dtype.itemsize - 1)
    return np.where(bits & sign, ~bits, bits | sign)
