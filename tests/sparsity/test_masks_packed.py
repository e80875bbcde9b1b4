"""Masks as they are stored: without loss, at one bit a weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hf_sparse.sparsity.masks import Masks
from hf_sparse.targets import find_targets

FIRST, SECOND = "layers.0.weight", "layers.1.weight"


def stack(*shapes: tuple[int, int]) -> nn.Module:
    """Return a model whose targets are layers.0.weight, layers.1.weight and so on, (out, in)."""
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)
    return model


def masks_of(model: nn.Module) -> Masks:
    return Masks(find_targets(model))


def random_keep(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) > 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (1, 8), (3, 3), (5, 13), (16, 16), (33, 31)])
def test_packing_loses_nothing(shape: tuple[int, int]) -> None:
    masks, again = masks_of(stack(shape, (2, 2))), masks_of(stack(shape, (2, 2)))
    masks.set(FIRST, random_keep(*shape))
    masks.set(SECOND, torch.tensor([[False, True], [False, False]]))
    again.unpack(masks.pack())
    for name in (FIRST, SECOND):
        assert torch.equal(again[name], masks[name])
        assert again.removed(name) == masks.removed(name)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), bits=st.integers(0, 2**144 - 1))
def test_packing_any_mask_loses_nothing(rows: int, columns: int, bits: int) -> None:
    keep = torch.tensor([bool(bits >> index & 1) for index in range(rows * columns)]).view(rows, columns)
    model = stack((rows, columns))
    masks, again = masks_of(model), masks_of(model)
    masks.set(FIRST, keep)
    again.unpack(masks.pack())
    assert torch.equal(again[FIRST], keep)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9])
def test_a_packed_mask_takes_one_bit_a_weight_besides_a_header(sparsity: float) -> None:
    masks = masks_of(stack((256, 512)))
    masks.set(FIRST, torch.rand(256, 512, generator=torch.Generator().manual_seed(0)) >= sparsity)
    (packed,) = masks.pack().values()
    assert packed.dtype == torch.uint8
    assert packed.numel() <= 256 * 512 // 8 + 16


def test_packed_masks_are_a_copy() -> None:
    masks, keep = masks_of(stack((6, 7))), random_keep(6, 7)
    masks.set(FIRST, keep)
    packed = masks.pack()
    masks.set(FIRST, ~keep)
    masks.unpack(packed)
    assert torch.equal(masks[FIRST], keep)


def test_masks_of_other_targets_are_refused() -> None:
    packed = masks_of(stack((2, 2), (2, 2))).pack()
    with pytest.raises(ValueError, match="differ in 1 names, such as layers.1.weight"):
        masks_of(stack((2, 2))).unpack(packed)
    with pytest.raises(ValueError, match="differ in 2 names, such as layers.0.weight"):
        masks_of(stack((2, 2), (2, 2))).unpack({})


def test_masks_of_weights_of_another_size_are_refused() -> None:
    packed = masks_of(stack((4, 9))).pack()
    with pytest.raises(
        ValueError,
        match=r"stored mask of layers.0.weight \(5 bytes\) is not one of \(4, 4\); load it into",
    ):
        masks_of(stack((4, 4))).unpack(packed)
