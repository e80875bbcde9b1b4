"""A tally finds the score of any rank, whether its scores fit into the list or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.sparsity.streamed import score_tally
from hf_sparse.sparsity.streamed.score_tally import ScoreTally

_scores = st.one_of(
    st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, 1e-45, -1e-45, np.inf, -1.0])
)


def search(
    scores: np.ndarray, rank: int, low: float = -np.inf, high: float = np.inf
) -> tuple[float, int, int]:
    """Narrow the bracket until one score is left; return it, and how many are above it and equal to it."""
    above = 0
    for _ in range(10):
        tally = ScoreTally(scores.dtype, low, high, scores.size)
        inside = scores[(scores > low) & (scores <= high)]
        parts = np.array_split(inside, 3)
        for source in (2, 0, 1):
            tally.add(parts[source], source)
        assert tally.count == inside.size
        found = tally.find(rank - above)
        above += found.above
        if found.shares is not None:
            counts = dict.fromkeys(range(3), (0, 0)) | found.shares
            assert counts == {
                source: (np.count_nonzero(part > found.high), np.count_nonzero(part == found.high))
                for source, part in enumerate(parts)
            }
        if found.equal is not None:
            return found.high, above, found.equal
        assert found.low >= low and found.high <= high
        low, high = found.low, found.high
    raise AssertionError("the bracket does not become narrow")


@pytest.mark.parametrize("listed", [1, 5, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=25, deadline=None)
@given(values=st.lists(_scores, min_size=1, max_size=40), data=st.data())
def test_the_score_of_any_rank_is_found(listed: int, dtype: type, values: list, data: st.DataObject) -> None:
    scores = np.array([value for value in values if value > -np.inf] or [1.0], dtype)
    rank = data.draw(st.integers(1, scores.size))
    before, score_tally._LIST = score_tally._LIST, listed
    try:
        found, above, equal = search(scores, rank)
    finally:
        score_tally._LIST = before
    expected = np.sort(scores)[::-1][rank - 1]
    assert found == expected
    assert (above, equal) == (np.count_nonzero(scores > expected), np.count_nonzero(scores == expected))


def test_scores_of_half_precision_need_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_tally, "_LIST", 8)
    # Numbers with eight leading bits, as bf16 has them, in a bracket wider than there are bins for float32.
    scores = np.repeat(np.arange(128, 192, dtype=np.float32), 3)
    tally = ScoreTally(np.dtype(np.float32), 127.0, 191.0, scores.size)
    tally.add(scores)
    found = tally.find(4)
    assert (found.high, found.above, found.equal) == (190.0, 3, 3)


def test_ends_that_are_not_numbers_are_open() -> None:
    tally = ScoreTally(np.dtype(np.float32), np.nan, np.nan, 4)
    assert (tally.low, tally.high) == (-np.inf, np.inf)
