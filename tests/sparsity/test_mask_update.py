"""Mask updates: exact counts, nested masks, whole blocks."""

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hf_sparse.sparsity.allocation import ALLOCATIONS
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import grow, kept_if_pruned
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.targets import find_targets

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BLOCKS = [Block(1, 4), Block(4, 1), Block(4, 4), Block(16, 1)]
FIRST, SECOND = "layers.0.weight", "layers.1.weight"


def masks_over(*weights: Tensor) -> Masks:
    """Return masks of a model whose targets layers.0.weight, layers.1.weight and so on have these values."""
    model = nn.Module()
    model.layers = nn.ModuleList(
        nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights
    )
    for layer, weight in zip(model.layers, weights, strict=True):
        layer.weight = nn.Parameter(weight.clone())
    return Masks(find_targets(model))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def grow_to(masks: Masks, sparsity: float, pattern: Pattern, allocation: str, least: float = 0.0) -> bool:
    layout = Layout(masks.targets, pattern, allocation, least)
    return grow(masks, layout.budgets(lambda final: sparsity), absolute, layout.blocks)


def removed(masks: Masks) -> int:
    return sum(masks.removed(target.name) for target in masks.targets)


def test_the_smallest_magnitudes_go_first() -> None:
    masks = masks_over(torch.tensor([[3.0, -1.0], [0.5, -4.0]]))
    assert grow_to(masks, 0.5, UNSTRUCTURED, "uniform") is True
    assert masks[FIRST].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
def test_what_would_stay_is_what_stays(allocation: str, sparsity: float) -> None:
    masks = masks_over(noise(16, 16), 0.1 * noise(16, 32, seed=1))
    block, before = Block(4, 4), [masks[FIRST].clone(), masks[SECOND].clone()]
    layout = Layout(masks.targets, block, allocation, 0.1)
    scores = {target.name: block.pool(target.weight.detach().abs()) for target in masks.targets}
    kept = kept_if_pruned(layout.budgets(lambda final: sparsity), scores)
    assert torch.equal(masks[FIRST], before[0]) and torch.equal(masks[SECOND], before[1])
    grow_to(masks, sparsity, block, allocation, 0.1)
    for name in (FIRST, SECOND):
        assert kept[name].shape == scores[name].shape
        assert torch.equal(block.expand(kept[name]), masks[name])


def test_only_the_masks_change() -> None:
    values = noise(8, 8)
    masks = masks_over(values)
    grow_to(masks, 0.5, UNSTRUCTURED, "uniform")
    (target,) = masks.targets
    assert torch.equal(target.weight, values)


@pytest.mark.parametrize(
    ("shape", "sparsity", "block", "count"),
    [
        ((768, 768), 0.9, UNSTRUCTURED, 530_841),
        ((3072, 768), 0.9, UNSTRUCTURED, 2_123_366),
        ((768, 768), 0.85, UNSTRUCTURED, 501_350),
        ((768, 768), 0.9, Block(4, 4), 530_832),
        ((768, 768), 0.8, Block(1, 4), 4 * 117_964),
    ],
)
def test_real_layers_lose_exactly_the_published_count(
    shape: tuple[int, int], sparsity: float, block: Block, count: int
) -> None:
    masks = masks_over(noise(*shape))
    grow_to(masks, sparsity, block, "uniform")
    assert masks.removed(FIRST) == count
    assert int((~masks[FIRST]).sum()) == count


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("block", [UNSTRUCTURED, *BLOCKS])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_count_is_exact_at_every_step(dtype: torch.dtype, block: Block, allocation: str) -> None:
    masks = masks_over(noise(32, 48, dtype=dtype), noise(16, 32, seed=1, dtype=dtype))
    for sparsity in (0.05, 0.3, 0.31, 0.7, 0.9, 0.99):
        grow_to(masks, sparsity, block, allocation)
        blocks = [32 * 48 // block.size, 16 * 32 // block.size]
        if allocation == "uniform":
            expected = [int(sparsity * count) * block.size for count in blocks]
            assert [masks.removed(FIRST), masks.removed(SECOND)] == expected
        else:
            assert removed(masks) == int(sparsity * sum(blocks)) * block.size


@pytest.mark.parametrize("block", [UNSTRUCTURED, *BLOCKS])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.25])
def test_equal_weights_lose_no_more_than_their_share(block: Block, value: float) -> None:
    masks = masks_over(torch.full((32, 16), value), torch.full((16, 16), value))
    for sparsity in (0.1, 0.5, 0.9):
        grow_to(masks, sparsity, block, "uniform")
        assert masks.removed(FIRST) == int(sparsity * (512 // block.size)) * block.size
        assert masks.removed(SECOND) == int(sparsity * (256 // block.size)) * block.size


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 0), ((1, 2), 1), ((3, 1), 2), ((2, 5), 9)])
def test_tiny_weights_round_down(shape: tuple[int, int], count: int) -> None:
    masks = masks_over(noise(*shape))
    grow_to(masks, 0.9, UNSTRUCTURED, "uniform")
    assert masks.removed(FIRST) == count


def test_no_sparsity_changes_nothing() -> None:
    masks = masks_over(noise(4, 4))
    assert grow_to(masks, 0.0, UNSTRUCTURED, "uniform") is False
    assert masks.sparsity == 0


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_where_more_is_gone_already_nothing_changes(allocation: str, sparsity: float) -> None:
    masks = masks_over(noise(8, 8), noise(8, 8, seed=1))
    grow_to(masks, 0.5, UNSTRUCTURED, allocation)
    before = [masks[FIRST], masks[SECOND]]
    for target in masks.targets:
        target.weight.data = noise(8, 8, seed=2)
    assert grow_to(masks, sparsity, UNSTRUCTURED, allocation) is False
    assert torch.equal(masks[FIRST], before[0])
    assert torch.equal(masks[SECOND], before[1])


def test_a_layer_ahead_of_its_share_waits_for_the_others() -> None:
    masks = masks_over(noise(4, 4), noise(4, 4, seed=1))
    ahead = torch.zeros(4, 4, dtype=torch.bool)
    ahead[0] = True
    masks.set(FIRST, ahead)
    masks.apply_to_weights()
    assert grow_to(masks, 0.5, UNSTRUCTURED, "uniform") is True
    assert torch.equal(masks[FIRST], ahead)
    assert masks.removed(SECOND) == 8


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("block", [UNSTRUCTURED, *BLOCKS])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_masks_are_nested_whatever_the_survivors_become(
    dtype: torch.dtype, block: Block, allocation: str
) -> None:
    masks = masks_over(noise(32, 16, dtype=dtype), noise(16, 48, seed=1, dtype=dtype))
    before = {name: masks[name] for name in (FIRST, SECOND)}
    for step, sparsity in enumerate((0.2, 0.4, 0.6, 0.8)):
        grow_to(masks, sparsity, block, allocation)
        for target in masks.targets:
            assert not (masks[target.name] & ~before[target.name]).any()
            before[target.name] = masks[target.name]
            # Half of what survives is trained to an exact zero, the rest to something else.
            trained = noise(*target.weight.shape, seed=10 + step, dtype=dtype)
            target.weight.data = torch.where(trained > 0, trained, 0)
        masks.apply_to_weights()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_kept_zeros_do_not_bring_removed_weights_back(allocation: str) -> None:
    # The removed entry is the last of four zeros: by index alone it would be kept before the others.
    masks = masks_over(torch.tensor([[5.0, 0.0, 0.0, 0.0, 0.0, 6.0]]))
    masks.set(FIRST, torch.tensor([[True, True, True, True, False, True]]))
    grow_to(masks, 0.5, UNSTRUCTURED, allocation)
    assert masks[FIRST].int().tolist() == [[1, 0, 0, 1, 0, 1]]


def test_kept_blocks_of_zeros_do_not_bring_removed_blocks_back() -> None:
    masks = masks_over(torch.tensor([[5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    masks.set(FIRST, torch.tensor([[True, True, True, True, True, True, False, False]]))
    grow_to(masks, 0.5, Block(1, 2), "uniform")
    assert masks[FIRST].int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_kept_or_removed_whole_by_their_sum(block: Block) -> None:
    weight = noise(16, 16)
    masks = masks_over(weight)
    grow_to(masks, 0.5, block, "uniform")
    rows, columns = 16 // block.rows, 16 // block.columns
    grouped = weight.abs().view(rows, block.rows, columns, block.columns).sum(dim=(1, 3)).flatten()
    verdicts = masks[FIRST].view(rows, block.rows, columns, block.columns)
    assert torch.equal(verdicts.any(3).any(1), verdicts.all(3).all(1))
    kept = verdicts.all(3).all(1).flatten()
    assert grouped[kept].min() > grouped[~kept].max()
    assert int(kept.sum()) == rows * columns // 2


def test_one_by_four_runs_along_the_inputs() -> None:
    weight = torch.ones(4, 8)
    weight[2, 4:] = 0.1
    masks = masks_over(weight)
    grow_to(masks, 0.125, Block(1, 4), "uniform")
    assert (~masks[FIRST]).nonzero().tolist() == [[2, 4], [2, 5], [2, 6], [2, 7]]


def test_a_block_counts_by_magnitude_not_by_its_signed_sum() -> None:
    masks = masks_over(torch.tensor([[9.0, -9.0, 1.0, 1.0]]))
    grow_to(masks, 0.5, Block(1, 2), "uniform")
    assert masks[FIRST].int().tolist() == [[1, 1, 0, 0]]


def test_blocks_of_a_matrix_taller_than_one_band_are_pooled_whole() -> None:
    weight = noise(1024, 512)
    masks = masks_over(weight)
    grow_to(masks, 0.75, Block(16, 1), "uniform")
    pooled = weight.abs().view(64, 16, 512).sum(1).flatten()
    kept = masks.kept_blocks(FIRST, Block(16, 1)).flatten()
    assert masks.removed(FIRST) == 1024 * 512 * 3 // 4
    assert pooled[kept].min() >= pooled[~kept].max()


def test_uniform_takes_the_same_share_of_small_and_large_weights() -> None:
    masks = masks_over(noise(10, 10), 100 * noise(10, 10, seed=1))
    grow_to(masks, 0.5, UNSTRUCTURED, "uniform")
    assert (masks.removed(FIRST), masks.removed(SECOND)) == (50, 50)


def test_global_takes_the_smallest_weights_wherever_they_are() -> None:
    masks = masks_over(1 + noise(10, 10).abs(), 100 + noise(10, 10, seed=1).abs())
    grow_to(masks, 0.4, UNSTRUCTURED, "global")
    assert (masks.removed(FIRST), masks.removed(SECOND)) == (80, 0)
    grow_to(masks, 0.6, UNSTRUCTURED, "global")
    assert (masks.removed(FIRST), masks.removed(SECOND)) == (100, 20)


def test_weights_in_another_memory_order_are_ranked_alike() -> None:
    weight = noise(16, 32)
    plain, turned = masks_over(weight), masks_over(weight)
    (target,) = turned.targets
    target.module.weight = nn.Parameter(weight.t().contiguous().t())
    for block in (Block(4, 4), UNSTRUCTURED):
        sparsity = 0.3 if block.size > 1 else 0.6
        for masks in (plain, turned):
            grow_to(masks, sparsity, block, "uniform")
        assert torch.equal(plain[FIRST], turned[FIRST])


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0, 0.5]), min_size=32, max_size=32),
    gone=st.sets(st.integers(0, 31)),
    sparsity=st.floats(0, 1, exclude_max=True),
    block=st.sampled_from([UNSTRUCTURED, Block(1, 2), Block(2, 2)]),
    allocation=st.sampled_from(sorted(ALLOCATIONS)),
    least=st.sampled_from([0.0, 0.01, 0.2]),
)
def test_growing_from_any_mask_is_exact_and_nested(
    entries: list[float], gone: set[int], sparsity: float, block: Block, allocation: str, least: float
) -> None:
    masks = masks_over(torch.tensor(entries[:16]).view(4, 4), torch.tensor(entries[16:]).view(2, 8))
    kept = torch.tensor([index not in gone for index in range(32)])
    for target, part in zip(masks.targets, (kept[:16], kept[16:]), strict=True):
        blocks = part[: 16 // block.size].view(target.weight.shape[0] // block.rows, -1)
        masks.set(target.name, block.expand(blocks))
    masks.apply_to_weights()
    before = {name: (masks[name], masks.removed(name)) for name in (FIRST, SECOND)}
    layout = Layout(masks.targets, block, allocation, least)
    try:
        budgets = layout.budgets(lambda final: sparsity)
    except ValueError:
        assert allocation != "uniform" and sparsity * 32 > 32 * (1 - least) - 2 * block.size
        return
    grow(masks, budgets, absolute, layout.blocks)
    for name, (mask, count) in before.items():
        assert not (masks[name] & ~mask).any()
        floor = ceil(least * (16 // block.size)) * block.size
        assert allocation == "uniform" or masks.removed(name) <= max(16 - floor, count)
    for budget in budgets:
        earlier = sum(before[name][1] for name in budget.names)
        assert sum(map(masks.removed, budget.names)) == max(budget.removed * block.size, earlier)
