"""Exact choice of the largest scores, on both of its paths, against a plain sort."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_sparse.sparsity import topk as ranking
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.topk import Ranking, keep_largest

Keep = Callable[[Ranking, Callable], list[Tensor]]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PATHS = [ranking._keep_on_cpu, ranking._keep_on_device]
both_paths = pytest.mark.parametrize("keep", PATHS, ids=["cpu", "device"])


def identity(scores, out=None):
    return scores


def by_sorting(values: Sequence[Tensor], removed: int) -> list[Tensor]:
    """Remove the smallest magnitudes, the earlier entry first among equals, by sorting them all."""
    flat = torch.cat([tensor.flatten() for tensor in values]).double().abs()
    keep = torch.ones(flat.numel(), dtype=torch.bool)
    keep[flat.argsort(stable=True)[:removed]] = False
    return list(keep.split([tensor.numel() for tensor in values]))


def check(keep: Keep, values: Sequence[Tensor], removed: int) -> None:
    masks = keep(Ranking(values, removed), absolute)
    assert [mask.tolist() for mask in masks] == [mask.tolist() for mask in by_sorting(values, removed)]


@both_paths
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_smaller_two_of_four_are_removed(keep: Keep, dtype: torch.dtype) -> None:
    (mask,) = keep(Ranking([torch.tensor([-4.0, 1.0, 2.0, -0.5], dtype=dtype)], 2), absolute)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [True, False, True, False]


@both_paths
def test_among_equals_the_earlier_entry_goes_first(keep: Keep) -> None:
    values = [torch.tensor([1.0, -3.0, 1.0]), torch.tensor([-1.0, 2.0, 1.0])]
    assert [mask.int().tolist() for mask in keep(Ranking(values, 3), absolute)] == [[0, 1, 0], [0, 1, 1]]


@both_paths
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [0.0, 1.0, -0.02])
@pytest.mark.parametrize("removed", [0, 1, 37, 99, 100])
def test_equal_values_do_not_change_the_count(
    keep: Keep, dtype: torch.dtype, value: float, removed: int
) -> None:
    (mask,) = keep(Ranking([torch.full((10, 10), value, dtype=dtype)], removed), absolute)
    assert mask.tolist() == [False] * removed + [True] * (100 - removed)


@both_paths
@pytest.mark.parametrize("removed", [0, 1])
def test_one_value_is_kept_or_not(keep: Keep, removed: int) -> None:
    (mask,) = keep(Ranking([torch.tensor([[0.5]])], removed), absolute)
    assert mask.tolist() == [removed == 0]


@both_paths
def test_infinite_values_are_kept_longest(keep: Keep) -> None:
    values = [torch.tensor([float("inf"), 1.0, float("-inf"), 2.0])]
    check(keep, values, 2)
    check(keep, values, 3)


@both_paths
@pytest.mark.parametrize("removed", [1, 3])
def test_some_scores_of_minus_infinity_are_kept(keep: Keep, removed: int) -> None:
    scores = torch.tensor([-torch.inf, 5.0, -torch.inf, torch.inf, -torch.inf, -torch.inf])
    (mask,) = keep(Ranking([scores], removed), identity)
    assert mask.tolist() == [False, True, removed < 2, True, removed < 3, True]


@both_paths
def test_scores_of_minus_infinity_go_before_all_others(keep: Keep) -> None:
    scores = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf, 5.0, 0.0])
    for removed, expected in ((2, [1, 0, 1, 0, 1, 1]), (3, [0, 0, 1, 0, 1, 1]), (5, [0, 0, 0, 0, 1, 0])):
        (mask,) = keep(Ranking([scores], removed), identity)
        assert mask.int().tolist() == expected


@both_paths
def test_tensors_that_are_views_are_read_in_row_order(keep: Keep) -> None:
    matrix = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
    check(keep, [matrix.t()], 1)
    check(keep, [matrix[:, 1:]], 1)


@both_paths
def test_values_are_left_alone(keep: Keep) -> None:
    values = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    keep(Ranking([values], 2), absolute)
    keep(Ranking([values], 2), identity)
    assert values.tolist() == [3.0, -1.0, 2.0]


# Few distinct values make ties, as do infinite ones; wide ones make subnormals, overflow in half precision,
# and long mantissas.
_few = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([np.inf, -np.inf]))
_wide = st.floats(-7e4, 7e4, width=32)


@both_paths
@settings(max_examples=120, deadline=None)
@given(
    lists=st.lists(st.lists(st.one_of(_few, _wide), min_size=1, max_size=30), min_size=1, max_size=4),
    dtype=st.sampled_from(FLOATS),
    share=st.floats(0, 1),
)
def test_the_choice_is_that_of_a_stable_sort(
    keep: Keep, lists: list[list[float]], dtype: torch.dtype, share: float
) -> None:
    values = [torch.tensor(entries, dtype=dtype) for entries in lists]
    check(keep, values, round(share * sum(map(len, lists))))


def weights_of_a_layer(kind: str, size: int = 200_000) -> Tensor:
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 0.02
    if kind == "bf16":
        return values.bfloat16()
    if kind == "mostly zero":
        return values * (torch.rand(size, generator=torch.Generator().manual_seed(1)) > 0.85)
    if kind == "sorted":
        return values.sort().values
    if kind.endswith("columns of unequal scale"):
        return values * torch.arange(size).remainder(int(kind.split()[0])).add(1)
    return values


@both_paths
@pytest.mark.parametrize("kind", ["normal", "bf16", "mostly zero", "sorted", "500 columns of unequal scale"])
@pytest.mark.parametrize("share", [0.0, 0.00001, 0.05, 0.5, 0.85, 0.9, 0.99999])
def test_weights_larger_than_one_pass_are_ranked_exactly(keep: Keep, kind: str, share: float) -> None:
    values = weights_of_a_layer(kind)
    removed = int(share * values.numel())
    (mask,) = keep(Ranking([values], removed), absolute)
    assert torch.equal(mask, by_sorting([values], removed)[0])


@pytest.mark.parametrize("lengths", [(131_072,), (131_073,), (131_071, 1), (262_144, 5, 131_072)])
def test_the_ends_of_passes_are_not_lost(lengths: tuple[int, ...]) -> None:
    values = [torch.arange(length, 0, -1, dtype=torch.float32) for length in lengths]
    masks = ranking._keep_on_cpu(Ranking(values, sum(lengths) // 3), absolute)
    assert all(map(torch.equal, masks, by_sorting(values, sum(lengths) // 3)))


@pytest.mark.parametrize("kind", ["normal", "bf16", "sorted", "512 columns of unequal scale"])
def test_a_sample_brackets_the_threshold_narrowly(kind: str) -> None:
    values = weights_of_a_layer(kind).float().numpy()
    scores = np.sort(np.abs(values))
    for share in (0.05, 0.5, 0.9):
        low, high = ranking._bracket([values], values.size, int(share * values.size), absolute)
        assert low < scores[int(share * values.size)] <= high
        assert np.count_nonzero((scores > low) & (scores <= high)) < 0.06 * values.size


def test_a_sample_does_not_run_along_the_columns_of_a_square_matrix() -> None:
    matrix = weights_of_a_layer("normal", 512 * 512).view(512, 512)
    # The columns that a stride of size / samples = 32 would see, and no others.
    matrix[:, ::32] *= 100
    low, high = ranking._bracket([matrix.flatten().numpy()], matrix.numel(), matrix.numel() // 2, absolute)
    assert low < matrix.abs().median() <= high


@pytest.mark.parametrize(
    "bracket",
    [(2.0, 3.0), (-2.0, -1.0), (0.0, 0.0), (0.0, 0.001), (0.05, np.inf), (-np.inf, 0.01), (-np.inf, -np.inf)],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_sample_that_misses_the_threshold_changes_nothing(
    bracket: tuple[float, float], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_bracket", lambda *_: bracket)
    values = [weights_of_a_layer("mostly zero", 1_500), weights_of_a_layer("normal", 501)]
    check(ranking._keep_on_cpu, values, int(share * 2_001))


def test_a_bracket_whose_ends_are_scores_themselves_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [torch.tensor([1.0, 2.0, 2.0, 3.0, 2.0, 4.0])]
    for ends in ((1.0, 2.0), (1.0, 4.0), (2.0, 2.0), (2.0, 3.0), (2.0, 4.0), (3.0, 4.0)):
        monkeypatch.setattr(ranking, "_bracket", lambda *_, ends=ends: ends)
        for removed in range(7):
            check(ranking._keep_on_cpu, values, removed)


def test_rankings_are_independent() -> None:
    rankings = [
        Ranking([torch.tensor([1.0, 5.0]), torch.tensor([0.5])], 2),
        Ranking([torch.tensor([9.0, 8.0, 7.0])], 1),
        Ranking([torch.tensor([1.0])], 0),
    ]
    masks = keep_largest(rankings, absolute)
    assert [[mask.tolist() for mask in keeps] for keeps in masks] == [
        [[False, True], [False]],
        [[True, True, False]],
        [[True]],
    ]


def test_nothing_to_rank_is_fine() -> None:
    assert keep_largest([], absolute) == []


@both_paths
def test_weights_that_are_not_numbers_are_refused(keep: Keep) -> None:
    diverged = torch.full((100,), torch.nan)
    with pytest.raises(FloatingPointError, match="training has diverged; lower the learning rate"):
        keep(Ranking([diverged], 50), absolute)
