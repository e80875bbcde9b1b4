"""The reweighted group Lasso: value, gradient, groups that are spared, the adjustment of its strength."""

from math import isfinite
from typing import Any

import pytest
import torch
from torch import nn

from hf_sparse.sparsity.groups import group_norms
from hf_sparse.sparsity.methods.group_lasso import GroupLasso
from hf_sparse.sparsity.methods.penalty import Strength
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.targets import Targets, find_targets
from tests.support.tiny import bert

BLOCK, EPSILON, STRENGTH = Block(4, 4), 1e-3, 1e-2


@pytest.fixture
def model() -> nn.Module:
    return bert()


def penalty_of(model: nn.Module, **changes: Any) -> tuple[GroupLasso, Targets]:
    targets = find_targets(model)
    return GroupLasso(targets, dict.fromkeys(targets.names, BLOCK), STRENGTH, EPSILON, **changes), targets


def value(penalty: GroupLasso) -> float:
    """Return the penalty at the present weights."""
    for target in penalty.targets:
        target.parameter.grad = torch.zeros_like(target.parameter)
    return penalty.add_gradients()


def test_after_a_refresh_the_sum_counts_the_groups(model: nn.Module) -> None:
    penalty, targets = penalty_of(model)
    norms = [group_norms(target.weight.detach(), BLOCK) for target in targets]
    expected = STRENGTH * sum((n / (n + EPSILON)).sum().item() for n in norms)
    assert value(penalty) == pytest.approx(expected, rel=1e-5)
    assert value(penalty) == pytest.approx(STRENGTH * sum(n.numel() for n in norms), rel=0.1)


def test_gamma_does_not_move_between_refreshes(model: nn.Module) -> None:
    penalty, targets = penalty_of(model)
    first = value(penalty)
    with torch.no_grad():
        for target in targets:
            target.weight.mul_(0.5)
    assert value(penalty) == pytest.approx(first / 2, rel=1e-5)
    penalty.refresh()
    assert value(penalty) == pytest.approx(first, rel=0.05)


def test_the_gradient_is_strength_gamma_and_direction(model: nn.Module) -> None:
    penalty, targets = penalty_of(model)
    for target in targets:
        target.parameter.grad = torch.ones_like(target.parameter)
    found = penalty.add_gradients(scale=8.0)
    norms = torch.cat([group_norms(target.weight.detach(), BLOCK).flatten() for target in targets])
    assert found == pytest.approx(STRENGTH * (norms / (norms + EPSILON)).sum().item(), rel=1e-5)
    for target in targets:
        weight = target.weight.detach()
        norms = group_norms(weight, BLOCK)
        expected = BLOCK.expand(STRENGTH / (norms + EPSILON) / norms) * weight
        assert expected.abs().max() > 0
        torch.testing.assert_close(target.gradient, 1 + 8 * expected, rtol=1e-4, atol=1e-5)


def test_weights_without_a_gradient_are_left_alone(model: nn.Module) -> None:
    penalty, targets = penalty_of(model)
    assert penalty.add_gradients() == 0.0
    assert all(target.parameter.grad is None for target in targets)


def test_groups_that_are_spared_are_neither_pushed_nor_shrunk(model: nn.Module) -> None:
    def largest(norms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: of > of.median() for name, of in norms.items()}

    penalty, targets = penalty_of(model, kept=largest)
    before = {target.name: target.weight.detach().clone() for target in targets}
    value(penalty)
    penalty.strength.value = 1e-4
    penalty.proximal_step()
    for target in targets:
        kept = BLOCK.expand(largest({"": group_norms(before[target.name], BLOCK)})[""])
        assert 0 < kept.sum() < kept.numel()
        assert not target.gradient[kept].any() and (target.gradient[~kept] != 0).all()
        assert torch.equal(target.weight[kept], before[target.name][kept])
        assert (target.weight.detach().abs() < before[target.name].abs())[~kept].all()


def test_a_weight_of_zeros_is_gone_and_spoils_nothing(model: nn.Module) -> None:
    targets = find_targets(model)
    with torch.no_grad():
        targets.found[0].weight.zero_()
    penalty, _ = penalty_of(model)
    row = penalty.measure(0, 0.99)
    assert 0 < row.gone < 0.5 and isfinite(row.level)
    penalty.strength.value = penalty.proximal_strength(10, 0.99)
    before = targets.found[1].weight.detach().clone()
    penalty.proximal_step()
    assert isfinite(penalty.strength.value) and 0 < targets.found[1].weight.norm() < before.norm()


def test_a_level_that_is_no_number_leaves_the_strength() -> None:
    strength = Strength(1.0)
    for level in (9.0, float("nan"), 8.0, float("inf"), 7.0):
        strength.adjust(level, since=1, left=1)
        assert strength.value == 1.0


def test_the_level_is_that_of_pushed_groups_where_others_are_spared(model: nn.Module) -> None:
    spared = {target.name for target in find_targets(model).found[1:]}

    def kept(norms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.full_like(of, name in spared, dtype=torch.bool) for name, of in norms.items()}

    penalty, targets = penalty_of(model, kept=kept)
    first = targets.found[0]
    norms = group_norms(first.weight.detach(), BLOCK)
    limit = 0.1 * norms.square().mean().sqrt()
    assert penalty.measure(0, 0.5).level == pytest.approx((norms.max() / limit).item(), rel=1e-5)
    penalty.strength.value = penalty.proximal_strength(1000, 0.5)
    for _ in range(1000):
        penalty.refresh()
        penalty.proximal_step()
    assert penalty.measure(1000, 0.5).level == pytest.approx(0.5, abs=0.25)


def test_groups_are_gone_below_a_share_of_where_their_weight_began(model: nn.Module) -> None:
    penalty, targets = penalty_of(model, threshold=0.1)
    assert penalty.measure(0, 0.5).gone == 0.0
    with torch.no_grad():
        for target in targets:
            target.weight[: len(target.weight) // 2] *= 0.05
    assert penalty.measure(1, 0.5).gone == pytest.approx(0.5)


def test_a_state_is_taken_up_by_another(model: nn.Module) -> None:
    penalty, _ = penalty_of(model)
    penalty.strength.adjust(penalty.measure(3, 0.1).level, 1, 5)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(0.01)
    other, _ = penalty_of(model)
    assert value(other) != value(penalty)
    other.load_state({name: value.clone() for name, value in penalty.state().items()})
    assert value(other) == value(penalty)
    assert other.measure(4, 0.5) == penalty.measure(4, 0.5)
    assert other.history == penalty.history and other.strength == penalty.strength


def test_a_state_of_other_groups_is_refused(model: nn.Module) -> None:
    targets = find_targets(model)
    other = GroupLasso(targets, dict.fromkeys(targets.names, Block(2, 2)), STRENGTH)
    with pytest.raises(ValueError, match="checkpoint.s penalty is not that of this recipe and model"):
        penalty_of(model)[0].load_state(other.state())


def test_what_is_over_leaves_its_history(model: nn.Module) -> None:
    penalty, _ = penalty_of(model)
    penalty.finish(7, 0.5)
    other, _ = penalty_of(model)
    other.load_state(penalty.state())
    assert [row.step for row in other.history] == [7]
    assert not any(key.startswith("gamma") for key in penalty.state())


def test_strength_makes_a_level_arrive_in_time() -> None:
    strength = Strength(1.0)
    strength.adjust(11.0, since=10, left=100)
    assert strength.value == 1.0
    # A tenth every step was needed, and is what there was.
    strength.adjust(10.0, since=10, left=90)
    assert strength.value == 1.0
    strength.adjust(9.6, since=10, left=86)
    assert strength.value == pytest.approx((0.1 / 0.04) ** 0.5)
    strength.adjust(9.6, since=10, left=43)
    assert strength.value == pytest.approx((0.1 / 0.04) ** 0.5 * 2)
    strength.adjust(0.9, since=10, left=30)
    assert strength.value == pytest.approx((0.1 / 0.04) ** 0.5)


def test_a_power_of_the_time_left_asks_for_more_at_first() -> None:
    """A level that falls as the cube of the time left is as it should be, but for looking back a little."""
    cubic, even = Strength(1.0), Strength(1.0)
    for step in range(0, 80, 2):
        level = 1 + 10 * (1 - step / 100) ** 3
        cubic.adjust(level, since=2, left=100 - step, power=3.0)
        even.adjust(level, since=2, left=100 - step)
    assert 0.4 < cubic.value < 1.0 and even.value < 1e-3


@pytest.mark.parametrize("asked", [0.0, 0.25, 0.5, 1.0])
def test_the_level_is_the_size_of_the_largest_group_that_is_to_go(model: nn.Module, asked: float) -> None:
    penalty, targets = penalty_of(model, threshold=0.1)
    row = penalty.measure(3, asked)
    sizes = (
        torch.cat(
            [
                (norms / norms.square().mean().sqrt() / 0.1).flatten()
                for target in targets
                for norms in [group_norms(target.weight.detach(), BLOCK)]
            ]
        )
        .sort()
        .values
    )
    count = round(asked * len(sizes))
    expected = sizes[count - 1].item() if count else 0.0
    assert row.level == pytest.approx(expected, rel=1e-4) and row.gone == 0.0
    assert penalty.history == [row]
