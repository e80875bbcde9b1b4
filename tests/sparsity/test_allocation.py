"""Budgets: how many blocks each weight loses at a sparsity of the whole."""

import pytest

from hf_sparse.sparsity.allocation import ALLOCATIONS, Budget, erdos_renyi_kernel, global_ranking, uniform
from hf_sparse.sparsity.patterns.block import Block, Tiled
from hf_sparse.sparsity.patterns.n_of_m import NOfM

SINGLE = Block()


def column(count: int) -> Tiled:
    """A weight of so many single blocks."""
    return Tiled((count, 1), SINGLE)


def weights(**counts: int) -> dict[str, Tiled]:
    return {name: column(count) for name, count in counts.items()}


def test_uniform_gives_every_weight_the_same_share_rounded_down() -> None:
    assert uniform(weights(a=10, b=7, c=1), 0.5, 0.0) == [
        Budget(("a",), 5, (10,)),
        Budget(("b",), 3, (7,)),
        Budget(("c",), 0, (1,)),
    ]


def test_global_ranks_all_weights_together() -> None:
    budgets = global_ranking(weights(a=10, b=7, c=1), 0.5, 0.0)
    assert budgets == [Budget(("a", "b", "c"), 9, (10, 7, 1))]


def test_a_floor_bounds_what_each_weight_may_lose() -> None:
    (budget,) = global_ranking(weights(a=10, b=7, c=1), 0.5, 0.25)
    assert budget.most == (7, 5, 0)


def test_a_floor_that_leaves_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="9 blocks are to be removed, and floor 0.6 leaves 6 of them"):
        global_ranking(weights(a=10, b=7, c=2), 0.5, 0.6)


def test_global_ranking_refuses_blocks_of_several_sizes() -> None:
    mixed = {"a": Tiled((4, 8), Block(1, 8)), "b": Tiled((4, 16), Block(1, 16))}
    with pytest.raises(ValueError, match="blocks of one size, and these have 8, 16 weights"):
        global_ranking(mixed, 0.5, 0.0)


def test_erk_keeps_more_of_small_weights_in_the_published_proportion() -> None:
    sizes = {"square": Tiled((100, 100), SINGLE), "long": Tiled((400, 100), SINGLE)}
    square, long = erdos_renyi_kernel(sizes, 0.9, 0.0)
    # (100 + 100) / 100^2 to (400 + 100) / (400 * 100) is 1.6 : 1, and 5,000 of 50,000 weights are kept.
    kept = {"square": 10_000 - square.removed, "long": 40_000 - long.removed}
    assert kept == {"square": 1429, "long": 3572}
    assert kept["square"] / 10_000 == pytest.approx(1.6 * kept["long"] / 40_000, rel=1e-3)


def test_erk_keeps_no_weight_more_than_whole() -> None:
    small, large = erdos_renyi_kernel({"a": Tiled((4, 4), SINGLE), "b": Tiled((400, 400), SINGLE)}, 0.5, 0.0)
    assert small.removed == 0
    assert large.removed == pytest.approx((400 * 400 + 16) / 2, abs=1)


def test_erk_leaves_each_weight_its_floor() -> None:
    sizes = {"a": Tiled((10, 10), SINGLE), "b": Tiled((1000, 1000), SINGLE)}
    for least in (0.0, 0.005, 0.01):
        assert 1_000_000 - erdos_renyi_kernel(sizes, 0.99, least)[1].removed >= least * 1_000_000


@pytest.mark.parametrize("shape", [(32, 32), (64, 16)])
def test_erk_of_equal_shapes_is_uniform(shape: tuple[int, int]) -> None:
    sizes = {"a": Tiled(shape, SINGLE), "b": Tiled(shape, SINGLE)}
    for sparsity in (0.0, 0.25, 0.5, 0.9):
        assert erdos_renyi_kernel(sizes, sparsity, 0.0) == uniform(sizes, sparsity, 0.0)


def test_budgets_only_grow_with_sparsity() -> None:
    sizes = {"a": Tiled((10, 20), SINGLE), "b": Tiled((100, 50), SINGLE), "c": Tiled((3, 3), SINGLE)}
    for allocation in ALLOCATIONS.values():
        before = [0] * 3
        for percent in range(0, 96, 5):
            now = [budget.removed for budget in allocation(sizes, percent / 100, 0.01)]
            assert all(map(int.__ge__, now, before))
            before = now


def test_n_of_m_rounds_to_whole_groups_at_its_share() -> None:
    assert Tiled((3, 12), NOfM(kept=1, group=3)).removed(0.6667) == 24
    assert Tiled((3, 12), NOfM(kept=1, group=3)).removed(0.6666) == 24
    assert Tiled((3, 12), NOfM(kept=2, group=4)).removed(0.25) == 9


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
    assert ALLOCATIONS[allocation](weights(a=size), sparsity, 0.0) == [Budget(("a",), removed, (size,))]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_no_sparsity_removes_nothing(allocation: str) -> None:
    assert sum(budget.removed for budget in ALLOCATIONS[allocation](weights(a=10, b=3), 0.0, 0.01)) == 0


def test_erk_refuses_a_floor_that_it_cannot_keep() -> None:
    with pytest.raises(ValueError, match="floor 0.02 keeps more of every weight than sparsity 0.995 leaves"):
        erdos_renyi_kernel(weights(a=100, b=50), 0.995, 0.02)
