"""How much of the sparsity each weight bears."""

import pytest

from hf_sparse.sparsity.allocation import ALLOCATIONS, Budget, global_ranking, uniform


def test_uniform_gives_every_weight_the_same_share_rounded_down() -> None:
    assert uniform({"a": 10, "b": 7, "c": 1}, 0.5) == [
        Budget(("a",), 5),
        Budget(("b",), 3),
        Budget(("c",), 0),
    ]


def test_global_ranks_all_weights_together() -> None:
    assert global_ranking({"a": 10, "b": 7, "c": 1}, 0.5) == [Budget(("a", "b", "c"), 9)]


@pytest.mark.parametrize(
    ("size", "sparsity", "removed"),
    [
        (768 * 768, 0.9, 530_841),
        (768 * 3072, 0.9, 2_123_366),
        (768 * 768, 0.85, 501_350),
        (768 * 768 // 16, 0.9, 530_832 // 16),
    ],
)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_counts_of_real_layers_are_exact(allocation: str, size: int, sparsity: float, removed: int) -> None:
    assert ALLOCATIONS[allocation]({"a": size}, sparsity) == [Budget(("a",), removed)]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_sparsity_removes_nothing(allocation: str) -> None:
    assert sum(budget.removed for budget in ALLOCATIONS[allocation]({"a": 10, "b": 3}, 0.0)) == 0


def test_the_choices_are_uniform_and_global() -> None:
    assert set(ALLOCATIONS) == {"uniform", "global"}
