"""Which weights count as pruned by their zeros alone, and which are zero by chance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hf_sparse import prune
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.sparsity.evidence import pruned_weights
from hf_sparse.targets import find_targets

SIZE = 96


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)


def stack(layers: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(layers))
    return model


def change(model: nn.Module, how: Callable[[Tensor], Tensor], *kinds: str) -> nn.Module:
    """Change the weights of some kinds of layers, by default of all."""
    with torch.no_grad():
        for target in find_targets(model):
            if not kinds or target.name.split(".")[2] in kinds:
                target.weight.copy_(how(target.weight))
    return model


def found(model: nn.Module) -> list[str]:
    return sorted({name.split(".")[2] for name in pruned_weights(find_targets(model))})


def scattered(share: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight * (torch.rand_like(weight) >= share)


def padded(rows: int) -> Callable[[Tensor], Tensor]:
    return lambda weight: torch.cat([weight[:-rows], torch.zeros_like(weight[-rows:])])


def rounded(scheme: str, groups: int = 1) -> Callable[[Tensor], Tensor]:
    def to_few_values(weight: Tensor) -> Tensor:
        # Normal, as weights are after training: those that are drawn evenly have fewer near zero.
        drawn = torch.randn(groups * len(weight), weight.shape[1] // groups)
        return read_weight_scheme(scheme).simulate(drawn).view(weight.shape)

    return to_few_values


@pytest.mark.parametrize(
    "what",
    [lambda weight: weight, torch.zeros_like, lambda weight: torch.eye(SIZE), padded(48), scattered(0.25)],
)
def test_zeros_of_these_kinds_are_chance(what: Callable) -> None:
    assert found(change(stack(), what)) == []
    assert found(change(stack(), what, "up")) == []


@pytest.mark.parametrize(
    "scheme", ["int8_per_tensor", "int8_per_channel", "int4_per_channel", "int2_per_channel"]
)
@pytest.mark.parametrize("groups", [1, 3])
def test_zeros_that_rounding_makes_are_chance(scheme: str, groups: int) -> None:
    assert found(change(stack(), rounded(scheme, groups))) == []


def test_new_layers_of_zeros_are_none_of_a_sparse_model() -> None:
    model = change(stack(), scattered(0.85))
    for layer in model.layers:
        layer.gate = nn.Linear(SIZE, 4 * SIZE)
        nn.init.zeros_(layer.gate.weight)
    assert found(model) == ["down", "up"]


def test_a_layer_that_lost_everything_is_one_of_a_sparse_model() -> None:
    model = change(stack(), scattered(0.85))
    nn.init.zeros_(model.layers[1].up.weight)
    assert len(pruned_weights(find_targets(model))) == 6


@pytest.mark.parametrize("share", [0.4, 0.5, 0.85, 0.97])
@pytest.mark.parametrize("kinds", [(), ("up",)])
def test_zeros_anywhere_that_are_many_were_pruned(share: float, kinds: tuple[str, ...]) -> None:
    assert set(kinds) <= set(found(change(stack(), scattered(share), *kinds)))


@pytest.mark.parametrize("pattern", ["row", "1x4", "4x4", "2:4", "column/4"])
@pytest.mark.parametrize("share", [0.125, 0.25, 0.5])
def test_zeros_in_a_pattern_were_pruned(pattern: str, share: float) -> None:
    model = stack()
    prune(model, 0.5 if ":" in pattern else share, pattern)
    assert found(model) == ["down", "up"]


def test_what_was_pruned_less_than_the_rest_belongs_to_it() -> None:
    model = change(change(stack(), scattered(0.9), "up"), scattered(0.08), "down")
    assert found(model) == ["down", "up"]


def test_a_small_part_that_was_pruned_is_found_alone() -> None:
    model = change(stack(), scattered(0.6), "up")
    for layer in model.layers:
        layer.other = nn.Linear(SIZE, 4 * SIZE)
    assert found(model) == ["up"]


def test_a_sparse_model_is_known_when_it_was_rounded_as_well() -> None:
    def both(weight: Tensor) -> Tensor:
        weight = torch.randn_like(weight)
        weight = weight * (weight.abs() > weight.abs().quantile(0.8))
        return read_weight_scheme("int8_per_channel").simulate(weight)

    assert found(change(stack(), both)) == ["down", "up"]


def test_halves_are_judged_alike() -> None:
    assert found(change(stack(), scattered(0.5)).bfloat16()) == ["down", "up"]
    assert found(change(stack(), scattered(0.2)).bfloat16()) == []
