"""Masks: what they hold, what they clear, and how they are stored."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import Adafactor

from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.targets import find_targets

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FIRST, SECOND = "layers.0.weight", "layers.1.weight"


def stack(*shapes: tuple[int, int], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model whose targets are layers.0.weight, layers.1.weight and so on, (out, in)."""
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)
    return model.to(dtype)


def masks_of(model: nn.Module) -> Masks:
    return Masks(find_targets(model))


def random_keep(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def masked(
    shape: tuple[int, int] = (6, 7), dtype: torch.dtype = torch.float32
) -> tuple[nn.Linear, Masks, Tensor]:
    """Return a layer, masks that remove about half of its weight, and what they keep."""
    model = stack(shape, dtype=dtype)
    masks, keep = masks_of(model), random_keep(*shape)
    masks.set(FIRST, keep)
    return model.layers[0], masks, keep


def test_at_first_everything_is_kept() -> None:
    masks = masks_of(stack((2, 3), (4, 2)))
    assert masks[FIRST].tolist() == [[True] * 3] * 2
    assert (masks.removed(FIRST), masks.removed(SECOND), masks.sparsity) == (0, 0, 0.0)


def test_a_mask_is_held_as_it_was_set() -> None:
    _, masks, keep = masked()
    assert masks[FIRST].dtype == torch.bool
    assert torch.equal(masks[FIRST], keep)
    assert masks.removed(FIRST) == 42 - int(keep.sum())


def test_a_mask_can_be_replaced() -> None:
    _, masks, keep = masked()
    masks.set(FIRST, ~keep)
    assert torch.equal(masks[FIRST], ~keep)
    assert masks.removed(FIRST) == int(keep.sum())


def test_a_view_can_be_set() -> None:
    masks, keep = masks_of(stack((4, 3))), random_keep(3, 4)
    masks.set(FIRST, keep.t())
    assert torch.equal(masks[FIRST], keep.t())


def test_sparsity_is_the_share_of_all_weights_that_is_removed() -> None:
    masks = masks_of(stack((2, 3), (4, 1)))
    masks.set(FIRST, torch.tensor([[True, False, False], [True, True, True]]))
    masks.set(SECOND, torch.tensor([[False], [True], [False], [False]]))
    assert (masks.removed(FIRST), masks.removed(SECOND), masks.sparsity) == (2, 3, 0.5)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask of layers.0.weight has shape \(3, 2\), its weight \(2, 3\)"):
        masks_of(stack((2, 3))).set(FIRST, torch.ones(3, 2, dtype=torch.bool))


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask of layers.0.weight holds torch.float32, .*keep != 0"):
        masks_of(stack((2, 3))).set(FIRST, torch.ones(2, 3))


def test_a_mask_takes_one_bit_a_weight() -> None:
    masks = masks_of(stack((64, 32), (5, 3), dtype=torch.float64))
    assert masks.nbytes == 64 * 32 // 8 + 2


@pytest.mark.parametrize(
    ("block", "kept"),
    [(UNSTRUCTURED, [[1, 1, 0, 0], [1, 1, 0, 0]]), (Block(1, 2), [[1, 0], [1, 0]]), (Block(2, 2), [[1, 0]])],
)
def test_kept_blocks_are_one_entry_a_block(block: Block, kept: list[list[int]]) -> None:
    masks = masks_of(stack((2, 4)))
    masks.set(FIRST, torch.tensor([[True, True, False, False]] * 2))
    assert masks.kept_blocks(FIRST, block).int().tolist() == kept


def test_locking_removes_exactly_the_zeros() -> None:
    model = stack((2, 3), (1, 2))
    model.layers[0].weight.data = torch.tensor([[0.0, 1e-45, -0.0], [math.nan, -1.0, 0.0]])
    masks = masks_of(model)
    masks.lock_zeros(dict.fromkeys(masks.targets.names, UNSTRUCTURED))
    assert masks[FIRST].int().tolist() == [[0, 1, 0], [1, 1, 0]]
    assert masks.removed(SECOND) == 0


def test_locking_blocks_leaves_single_zeros_free() -> None:
    model = stack((2, 4))
    model.layers[0].weight.data = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    masks = masks_of(model)
    masks.lock_zeros(dict.fromkeys(masks.targets.names, Block(1, 2)))
    assert masks[FIRST].int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert masks.removed(FIRST) == 4


@pytest.mark.parametrize("dtype", FLOATS)
def test_survivors_stay_as_they_are_bit_for_bit(dtype: torch.dtype) -> None:
    layer, masks, keep = masked(dtype=dtype)
    before = layer.weight.detach().clone()
    masks.apply_to_weights()
    assert torch.equal(layer.weight[keep], before[keep])
    assert not layer.weight[~keep].any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_removed_weights_become_positive_zeros(dtype: torch.dtype) -> None:
    layer, masks, keep = masked(dtype=dtype)
    layer.weight.data.fill_(-1.0)
    masks.apply_to_weights()
    assert not torch.signbit(layer.weight[~keep]).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.0])
def test_gradients_of_removed_weights_become_exact_zeros(dtype: torch.dtype, value: float) -> None:
    layer, masks, keep = masked(dtype=dtype)
    layer.weight.grad = torch.full_like(layer.weight, value)
    masks.apply_to_gradients()
    assert layer.weight.grad[~keep].tolist() == [0.0] * int((~keep).sum())
    assert torch.equal(layer.weight.grad[keep].isnan(), torch.full_like(layer.weight[keep], value).isnan())
    assert layer.weight.grad[keep].nan_to_num().eq(torch.tensor(value, dtype=dtype).nan_to_num()).all()


def test_a_weight_without_gradient_is_passed_over() -> None:
    model = stack((2, 2), (2, 2))
    masks = masks_of(model)
    for name in (FIRST, SECOND):
        masks.set(name, torch.eye(2).bool())
    model.layers[1].weight.grad = torch.ones(2, 2)
    masks.apply_to_gradients()
    assert model.layers[0].weight.grad is None
    assert model.layers[1].weight.grad.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_weights_in_another_memory_order_are_masked_alike() -> None:
    model = stack((4, 3))
    model.layers[0].weight = nn.Parameter(torch.ones(3, 4).t())
    masks, keep = masks_of(model), random_keep(4, 3)
    masks.set(FIRST, keep)
    for gradient in (torch.ones(4, 3), torch.ones(3, 4).t()):
        model.layers[0].weight.grad = gradient.masked_fill_(~keep, math.nan)
        masks.apply_to_gradients()
        assert torch.equal(model.layers[0].weight.grad, keep.float())
    masks.apply_to_weights()
    assert torch.equal(model.layers[0].weight, keep.float())


def test_masking_happens_in_place() -> None:
    layer, masks, _ = masked()
    layer.weight.grad = torch.ones_like(layer.weight)
    weight, gradient = layer.weight.data_ptr(), layer.weight.grad
    masks.apply_to_weights()
    masks.apply_to_gradients()
    assert layer.weight.data_ptr() == weight
    assert layer.weight.grad is gradient


def adamw(parameters, **options):
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1, **options)


OPTIMIZERS: dict[str, Callable] = {
    "AdamW": adamw,
    "AdamW amsgrad": lambda parameters: adamw(parameters, amsgrad=True),
    "AdamW fused": lambda parameters: adamw(parameters, fused=True),
    "AdamW foreach": lambda parameters: adamw(parameters, foreach=True),
    "Adam with coupled decay": lambda parameters: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD nesterov": lambda parameters: torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "SGD dampening": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.5),
}


def train(layer: nn.Linear, optimizer: torch.optim.Optimizer, steps: int, masks: Masks | None = None) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        layer.weight.grad = torch.randn_like(layer.weight)
        if masks is not None:
            masks.apply_to_gradients()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_momentum_and_decay_keep_zeros_once_state_is_cleared(name: str, dtype: torch.dtype) -> None:
    layer, masks, keep = masked(dtype=dtype)
    optimizer = OPTIMIZERS[name](layer.parameters())
    train(layer, optimizer, steps=5)
    masks.apply_to_weights()
    masks.apply_to_optimizer(optimizer)
    train(layer, optimizer, steps=20, masks=masks)
    assert torch.equal(layer.weight != 0, keep)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_momentum_moves_removed_weights_where_state_is_not_cleared(name: str) -> None:
    layer, masks, keep = masked()
    optimizer = OPTIMIZERS[name](layer.parameters())
    train(layer, optimizer, steps=5)
    masks.apply_to_weights()
    train(layer, optimizer, steps=1, masks=masks)
    assert layer.weight[~keep].all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_the_state_of_removed_weights_is_cleared(name: str) -> None:
    layer, masks, keep = masked()
    optimizer = OPTIMIZERS[name](layer.parameters())
    train(layer, optimizer, steps=3)
    before = {
        key: value.clone() for key, value in optimizer.state[layer.weight].items() if torch.is_tensor(value)
    }
    masks.apply_to_optimizer(optimizer)
    shaped = [key for key, value in before.items() if value.shape == layer.weight.shape]
    assert shaped
    for key, value in before.items():
        now = optimizer.state[layer.weight][key]
        assert torch.equal(now, value * keep if key in shaped else value)


def test_state_of_another_shape_is_left_alone() -> None:
    layer, masks, _ = masked()
    optimizer = Adafactor(layer.parameters(), lr=0.1, relative_step=False)
    train(layer, optimizer, steps=3)
    rows = optimizer.state[layer.weight]["exp_avg_sq_row"].clone()
    masks.apply_to_optimizer(optimizer)
    assert torch.equal(optimizer.state[layer.weight]["exp_avg_sq_row"], rows)


def test_an_optimizer_without_state_is_left_alone() -> None:
    layer, masks, _ = masked()
    optimizer = adamw(layer.parameters())
    masks.apply_to_optimizer(optimizer)
    assert len(optimizer.state) == 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [1.0, -1e-7, math.nan, math.inf])
def test_removed_weights_that_are_not_zero_are_counted(dtype: torch.dtype, value: float) -> None:
    layer, masks, keep = masked(dtype=dtype)
    masks.apply_to_weights()
    assert masks.nonzero_removed() == {}
    rows, columns = (~keep).nonzero()[:3].T
    layer.weight.data[rows, columns] = value
    assert masks.nonzero_removed() == {FIRST: 3}


def test_zeros_that_are_kept_and_negative_zeros_are_in_order() -> None:
    layer, masks, _ = masked()
    layer.weight.data.fill_(-0.0)
    assert masks.nonzero_removed() == {}


def test_masks_know_their_shapes_while_weights_are_divided_elsewhere() -> None:
    """Between the steps of ZeRO-3 the parameters of a model are empty."""
    layer, masks, keep = masked()
    packed, sparsity = masks.pack(), masks.sparsity
    layer.weight.data = torch.empty(0)
    assert masks.sparsity == sparsity
    masks.unpack(packed)
    assert torch.equal(masks[FIRST], keep)
