"""Revival: values of removed weights, compared with the published algorithm written out."""

import pytest
import torch
from torch import Tensor, nn

from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.targets import find_targets
from hf_sparse.training.parts.sparsifier import Sparsifier

STEPS, RAMP_END, UPDATE_END = 20, 8, 15
FIRST = "layers.0.weight"


def model() -> nn.Module:
    torch.manual_seed(0)
    stack = nn.Module()
    stack.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    return stack


def loss(weights: list[Tensor], biases: list[Tensor], step: int) -> Tensor:
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
    for weight, bias in zip(weights, biases, strict=True):
        inputs = torch.tanh(inputs @ weight.t() + bias)
    return (inputs - torch.sin(torch.arange(8.0) + step)).square().sum()


def sparsity_at(step: int) -> float:
    return 0.5 if step >= RAMP_END else 0.5 * (1 - (1 - step / RAMP_END) ** 3)


def published(
    optimizer_class: type[torch.optim.Optimizer], settings: dict[str, float]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Train as the authors' code does: `weight_original` times `weight_mask`, ranked by the former.

    Returns the product after the last step, and the masks after every step.
    """
    stack = model()
    originals = [layer.weight for layer in stack.layers]
    biases = [layer.bias for layer in stack.layers]
    masks = [torch.ones_like(weight) for weight in originals]
    optimizer = optimizer_class(stack.parameters(), **settings)
    history = []
    for step in range(STEPS + 1):
        if step:
            optimizer.zero_grad()
            products = [weight * mask for weight, mask in zip(originals, masks, strict=True)]
            loss(products, biases, step).backward()
            optimizer.step()
        if step <= UPDATE_END:
            for index, weight in enumerate(originals):
                removed = int(sparsity_at(step) * weight.numel())
                masks[index] = torch.ones_like(weight)
                masks[index].view(-1)[weight.detach().abs().view(-1).argsort(stable=True)[:removed]] = 0
        history.append([mask.bool() for mask in masks])
    return [(weight * mask).detach() for weight, mask in zip(originals, masks, strict=True)], history


@pytest.mark.parametrize(
    ("optimizer_class", "settings"),
    [
        (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}),
    ],
)
def test_revival_follows_the_published_algorithm_step_by_step(
    optimizer_class: type[torch.optim.Optimizer], settings: dict[str, float]
) -> None:
    expected, history = published(optimizer_class, settings)
    stack = model()
    recipe = SparsityRecipe(
        revive=True,
        schedule={"final": 0.5, "ramp_end": RAMP_END, "update_end": UPDATE_END, "every": 1},
    )
    sparsifier = Sparsifier(recipe, stack, STEPS)
    optimizer = optimizer_class(stack.parameters(), **settings)
    weights, biases = ([getattr(layer, name) for layer in stack.layers] for name in ("weight", "bias"))
    revived = 0
    for step in range(STEPS + 1):
        if step:
            optimizer.zero_grad()
            loss(weights, biases, step).backward()
            sparsifier.masks.apply_to_gradients()
            sparsifier.before_optimizer_step()
            optimizer.step()
            sparsifier.after_optimizer_step(optimizer)
        sparsifier.update(step, optimizer)
        assert not sparsifier.masks.nonzero_removed()
        for index, target in enumerate(sparsifier.masks.targets):
            assert torch.equal(sparsifier.masks[target.name], history[step][index]), step
            revived += int((history[step][index] & ~history[max(step - 1, 0)][index]).sum())
    # Otherwise masks that only grow would pass as well.
    assert revived > 10
    for weight, product in zip(weights, expected, strict=True):
        assert torch.equal(weight.detach(), product)
    assert sparsifier.remembered is None


def remembering() -> tuple[Masks, RememberedWeights, Tensor]:
    masks = Masks(find_targets(model()))
    values = masks.targets.found[0].weight.detach().clone()
    for target in masks.targets:
        masks.set(target.name, torch.arange(64).view(8, 8) % 3 > 0)
    remembered = RememberedWeights(masks)
    remembered.withdraw()
    return masks, remembered, values


def test_weights_are_zero_in_between_and_dense_when_restored() -> None:
    masks, remembered, values = remembering()
    weight = masks.targets.found[0].weight
    assert torch.equal(weight.detach(), values * masks[FIRST])
    remembered.restore()
    assert torch.equal(weight.detach(), values)


def test_packing_holds_the_removed_values_alone_and_brings_them_back() -> None:
    masks, remembered, values = remembering()
    packed = remembered.pack()
    assert torch.equal(packed[FIRST], values[~masks[FIRST]])
    other = RememberedWeights(masks)
    other.unpack(packed)
    other.restore()
    assert torch.equal(masks.targets.found[0].weight.detach(), values)


def test_signs_of_zero_and_kept_weights_come_through_bit_for_bit() -> None:
    masks, remembered, _ = remembering()
    weight = masks.targets.found[0].weight.detach()
    weight[0, 1] = -0.0
    for _ in range(2):
        remembered.restore()
        remembered.withdraw()
    assert torch.signbit(weight[0, 1]) and not masks.nonzero_removed()


def test_values_of_other_masks_are_refused() -> None:
    masks, remembered, _ = remembering()
    packed = remembered.pack()
    masks.set(FIRST, torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"remembered values of {FIRST} are not those of its removed"):
        RememberedWeights(masks).unpack(packed)
