"""Mask updates with limits: floors, N:M groups, overrides; masks that are chosen anew."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hf_sparse.sparsity.layout import Layout, Override
from hf_sparse.sparsity.mask_update import choose, grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block, Column, Row
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from hf_sparse.targets import find_targets

FIRST, SECOND, THIRD = (f"layers.{index}.weight" for index in range(3))


def masks_over(*weights: Tensor) -> Masks:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(weight.shape[1], weight.shape[0]) for weight in weights)
    for layer, weight in zip(model.layers, weights, strict=True):
        layer.weight = nn.Parameter(weight.clone())
    return Masks(find_targets(model))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def to(layout: Layout, sparsity: float) -> list:
    return layout.budgets(lambda final: sparsity if final is None else final)


def test_global_ranking_cannot_empty_a_layer() -> None:
    masks = masks_over(noise(10, 10) * 1e-3, noise(10, 10, seed=1), noise(10, 10, seed=2))
    layout = Layout(masks.targets, UNSTRUCTURED, "global", least=0.05)
    grow(masks, to(layout, 0.5), absolute, layout.blocks)
    assert masks.removed(FIRST) == 95
    assert sum(masks.removed(name) for name in (FIRST, SECOND, THIRD)) == 150


def test_what_a_floor_protects_is_the_best_of_its_layer_and_goes_at_the_others_expense() -> None:
    values = [noise(10, 10) * 1e-3, noise(10, 10, seed=1)]
    masks = masks_over(*values)
    layout = Layout(masks.targets, UNSTRUCTURED, "global", least=0.1)
    grow(masks, to(layout, 0.6), absolute, layout.blocks)
    kept = values[0].abs()[masks[FIRST]]
    assert len(kept) == 10 and kept.min() > values[0].abs()[~masks[FIRST]].max()
    kept = values[1].abs()[masks[SECOND]]
    assert len(kept) == 70 and kept.min() > values[1].abs()[~masks[SECOND]].max()


def test_a_layer_below_its_floor_already_is_left_as_it_is() -> None:
    masks = masks_over(torch.zeros(10, 10), noise(10, 10))
    masks.set(FIRST, torch.zeros(10, 10, dtype=torch.bool))
    layout = Layout(masks.targets, UNSTRUCTURED, "global", least=0.1)
    grow(masks, to(layout, 0.6), absolute, layout.blocks)
    assert (masks.removed(FIRST), masks.removed(SECOND)) == (100, 20)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(st.sampled_from([0.0, 0.0, 1.0, -1.0, 2.0, 0.5]), min_size=48, max_size=48),
    shares=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    pattern=st.sampled_from([NOfM(kept=2, group=4), NOfM(kept=1, group=4), NOfM(kept=1, group=3)]),
)
def test_n_of_m_is_nested_on_its_way_and_exact_at_its_end(
    entries: list[float], shares: list[float], pattern: NOfM
) -> None:
    masks = masks_over(torch.tensor(entries).view(4, 12))
    layout = Layout(masks.targets, pattern)
    for share in sorted(shares):
        before = masks[FIRST]
        grow(masks, to(layout, share * pattern.share * 0.99), absolute, layout.blocks)
        masks.apply_to_weights()
        assert not (masks[FIRST] & ~before).any()
        assert masks.removed(FIRST) == max(int(share * pattern.share * 0.99 * 48), int((~before).sum()))
        assert (masks[FIRST].view(-1, pattern.group).sum(1) >= pattern.kept).all()
    grow(masks, to(layout, pattern.share), absolute, layout.blocks)
    assert (masks[FIRST].view(-1, pattern.group).sum(1) == pattern.kept).all()


def test_n_of_m_keeps_the_largest_of_every_group() -> None:
    masks = masks_over(torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.1, 0.0, 0.3, -0.2]]))
    layout = Layout(masks.targets, NOfM(kept=2, group=4))
    grow(masks, to(layout, 0.5), absolute, layout.blocks)
    assert masks[FIRST].int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1]]


def test_n_of_m_breaks_ties_as_everywhere_the_earlier_entry_goes() -> None:
    for values in (torch.ones(2, 8), torch.zeros(2, 8)):
        pooled = [NOfM(kept=2, group=4).pool(scores) for scores in (values, values.numpy())]
        assert torch.isinf(pooled[0]).tolist() == [[False, False, True, True] * 2] * 2
        assert pooled[1].tolist() == pooled[0].tolist()


@pytest.mark.parametrize(("pattern", "axis"), [(Row(), 1), (Column(), 0)])
def test_whole_rows_or_columns_go_by_their_sum(pattern: Row | Column, axis: int) -> None:
    values = [noise(6, 8), noise(6, 8, seed=1)]
    masks = masks_over(*values)
    layout = Layout(masks.targets, pattern)
    grow(masks, to(layout, 0.5), absolute, layout.blocks)
    for name, value in zip((FIRST, SECOND), values, strict=True):
        order = value.abs().sum(axis).argsort()
        expected = torch.ones(len(order), dtype=torch.bool)
        expected[order[: len(order) // 2]] = False
        kept = masks[name].all(axis)
        assert torch.equal(kept, masks[name].any(axis)) and torch.equal(kept, expected)


def test_global_ranking_of_rows_is_refused_where_rows_differ_in_length() -> None:
    masks = masks_over(noise(4, 8), noise(4, 16))
    with pytest.raises(ValueError, match="blocks of one size, and these have 8, 16 weights"):
        to(Layout(masks.targets, Row(), "global"), 0.5)


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
def test_overrides_change_pattern_and_sparsity_of_what_they_match(allocation: str) -> None:
    masks = masks_over(noise(8, 8), noise(8, 8, seed=1), noise(8, 8, seed=2))
    overrides = [
        Override(r"layers\.0", sparsity=0.25),
        Override(r"layers\.[01]", Block(4, 4), sparsity=0.5),
        Override("2", NOfM(kept=1, group=4)),
    ]
    layout = Layout(masks.targets, UNSTRUCTURED, allocation, overrides=overrides)
    grow(masks, to(layout, 0.9), absolute, layout.blocks)
    assert [masks.removed(name) for name in (FIRST, SECOND, THIRD)] == [16, 32, 48]
    assert masks[SECOND].view(2, 4, 2, 4).sum((1, 3)).unique().tolist() == [0, 16]
    assert masks[THIRD].view(-1, 4).sum(1).unique().tolist() == [1]


def test_what_has_no_override_is_allocated_without_the_others() -> None:
    masks = masks_over(noise(8, 8) * 1e-3, noise(8, 8, seed=1), noise(8, 8, seed=2))
    layout = Layout(masks.targets, UNSTRUCTURED, "global", overrides=[Override("layers.0", sparsity=0.0)])
    grow(masks, to(layout, 0.5), absolute, layout.blocks)
    assert masks.removed(FIRST) == 0
    assert masks.removed(SECOND) + masks.removed(THIRD) == 64


@pytest.mark.parametrize(
    ("expression", "message"),
    [("layer\\.9", "matches no target; they are named like 'layers.0.weight'"), ("(", "not a regular expr")],
)
def test_an_override_that_means_nothing_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(masks_over(noise(4, 4)).targets, UNSTRUCTURED, overrides=[Override(expression, sparsity=0.5)])


def test_an_override_is_checked_against_the_weights_it_matches_alone() -> None:
    masks = masks_over(noise(8, 8), noise(6, 6))
    Layout(masks.targets, UNSTRUCTURED, overrides=[Override("layers.0", Block(4, 4))])
    with pytest.raises(ValueError, match="pattern 4x4 does not tile layers.1.weight of shape 6 x 6"):
        Layout(masks.targets, Block(4, 4), overrides=[Override("layers.0", UNSTRUCTURED)])


def test_choosing_anew_brings_back_what_has_grown() -> None:
    masks = masks_over(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    layout = Layout(masks.targets, UNSTRUCTURED)
    choose(masks, to(layout, 0.5), absolute, layout.blocks)
    assert masks[FIRST].int().tolist() == [[0, 0, 1, 1]]
    (target,) = masks.targets
    target.weight.data[0, 0] = 9.0
    choose(masks, to(layout, 0.5), absolute, layout.blocks)
    assert masks[FIRST].int().tolist() == [[1, 0, 0, 1]]


def test_choosing_anew_never_lowers_what_is_removed() -> None:
    masks = masks_over(noise(8, 8))
    layout = Layout(masks.targets, UNSTRUCTURED)
    choose(masks, to(layout, 0.5), absolute, layout.blocks)
    choose(masks, to(layout, 0.2), absolute, layout.blocks)
    assert masks.removed(FIRST) == 32
