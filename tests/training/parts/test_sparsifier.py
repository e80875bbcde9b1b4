"""The sparsity of one model during one run."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Adafactor

from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.training.parts.resolve import check_targets
from hf_sparse.training.parts.sparsifier import Sparsifier

FIRST, SECOND = "layers.0.weight", "layers.1.weight"
LOCK = SparsityRecipe(method="lock")


def gradual(
    final: float = 0.9, pattern: str = "unstructured", allocation: str = "uniform", **others: Any
) -> SparsityRecipe:
    schedule = {"final": final, "ramp_end": 4, "update_end": 6, "every": 2}
    settings = {"schedule": schedule, "pattern": pattern, "allocation": allocation}
    return SparsityRecipe.model_validate(settings | others)


def stack() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(16, 8), nn.Linear(8, 16)])
    return model


def sparse_stack(share: float = 0.5) -> nn.Module:
    """Return a model of which this share of each target is zero."""
    model = stack()
    for layer in model.layers:
        flat = layer.weight.data.view(-1)
        flat[: round(share * flat.numel())] = 0
    return model


def step_with(optimizer: torch.optim.Optimizer, model: nn.Module, sparsifier: Sparsifier) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    sparsifier.masks.apply_to_gradients()
    optimizer.step()
    sparsifier.after_optimizer_step(optimizer)


def test_zeros_grow_on_schedule_and_are_exact() -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    counts = []
    for step in range(11):
        sparsifier.update(step, None)
        counts.append([sparsifier.masks.removed(FIRST), measure_sparsity(model).zeros])
    half = int(0.7875 * 128)
    assert counts == [[0, 0]] * 2 + [[half, 2 * half]] * 2 + [[115, 230]] * 7


@pytest.mark.parametrize("pattern", ["unstructured", "1x4", "4x1", "4x4", "8x2"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_run_ends_at_its_final_sparsity_and_verifies(pattern: str, allocation: str) -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(0.75, pattern, allocation), model, total_steps=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(1, 11):
        step_with(optimizer, model, sparsifier)
        sparsifier.update(step, optimizer)
        sparsifier.verify(step)
    assert measure_sparsity(model).overall == sparsifier.masks.sparsity == 0.75


def test_an_update_clears_the_optimizer_state_of_what_it_removes() -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(1, 5):
        step_with(optimizer, model, sparsifier)
        sparsifier.update(step, optimizer)
    weight, keep = model.layers[0].weight, sparsifier.masks[FIRST]
    for name in ("exp_avg", "exp_avg_sq"):
        state = optimizer.state[weight][name]
        assert not state[~keep].any()
        assert state[keep].all()


def test_between_updates_nothing_changes() -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    for step in (1, 3, 5, 7, 10):
        sparsifier.update(step, None)
    assert sparsifier.masks.sparsity == 0


def test_biases_and_what_is_no_target_are_left_alone() -> None:
    model = stack()
    model.head = nn.Linear(4, 4)
    before = [model.head.weight.clone(), model.layers[0].bias.clone()]
    Sparsifier(gradual(), model, total_steps=10).update(4, None)
    assert torch.equal(model.head.weight, before[0])
    assert torch.equal(model.layers[0].bias, before[1])


def test_the_final_sparsity_is_reached_at_the_end_of_the_ramp() -> None:
    sparsifier = Sparsifier(gradual(), stack(), total_steps=10)
    assert [sparsifier.reached(step) for step in (0, 3, 4, 10)] == [False, False, True, True]


REMASKED: dict[str, Callable] = {
    "Adafactor": lambda parameters: Adafactor(parameters, lr=0.1, relative_step=False, weight_decay=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.9),
    "Adagrad": lambda parameters: torch.optim.Adagrad(
        parameters, lr=0.1, initial_accumulator_value=0.0, eps=1e-9
    ),
}


@pytest.mark.parametrize("name", REMASKED)
def test_zeros_hold_under_optimizers_of_any_kind(name: str) -> None:
    model = stack()
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    optimizer = REMASKED[name](model.parameters())
    for step in range(1, 11):
        step_with(optimizer, model, sparsifier)
        sparsifier.update(step, optimizer)
        sparsifier.verify(step)


class Noisy(torch.optim.SGD):
    """Moves every weight at every step, which nobody can see from its parents."""

    def step(self, closure: Callable | None = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(1.0)


@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: SimpleNamespace(optimizer=inner)])
def test_an_optimizer_that_moves_zeros_is_corrected(wrap: Callable) -> None:
    model = sparse_stack()
    sparsifier = Sparsifier(LOCK, model, total_steps=10)
    optimizer = Noisy(model.parameters(), lr=0.1)
    step_with(optimizer, model, sparsifier)
    model.layers[0].weight.data.add_(1.0)
    sparsifier.after_optimizer_step(wrap(optimizer))
    sparsifier.verify(1)


def test_an_optimizer_that_keeps_zeros_costs_no_masking(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sparse_stack()
    sparsifier = Sparsifier(LOCK, model, total_steps=10)
    calls = []
    monkeypatch.setattr(sparsifier.masks, "apply_to_weights", lambda: calls.append("weights"))
    for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD):
        sparsifier.after_optimizer_step(kind(model.parameters(), lr=0.1))
        sparsifier.after_optimizer_step(SimpleNamespace(optimizer=kind(model.parameters(), lr=0.1)))
    assert calls == []
    sparsifier.after_optimizer_step(Noisy(model.parameters(), lr=0.1))
    assert calls == ["weights"]


def test_lock_keeps_exactly_the_zeros_there_are(caplog: pytest.LogCaptureFixture) -> None:
    model = sparse_stack(0.25)
    with caplog.at_level(logging.WARNING):
        sparsifier = Sparsifier(LOCK, model, total_steps=10)
    assert torch.equal(sparsifier.masks[FIRST], model.layers[0].weight != 0)
    assert sparsifier.masks.sparsity == 0.25
    assert sparsifier.reached(0)
    assert "25.0 % sparse already; these zeros stay" in caplog.text


def test_lock_never_grows() -> None:
    model = sparse_stack(0.25)
    sparsifier = Sparsifier(LOCK, model, total_steps=10)
    model.layers[0].weight.data[-1, -1] = 0
    for step in range(11):
        sparsifier.update(step, None)
    assert sparsifier.masks.removed(FIRST) == 32
    sparsifier.verify(10)


def test_lock_holds_even_a_single_zero() -> None:
    model = stack()
    model.layers[1].weight.data[3, 3] = 0
    sparsifier = Sparsifier(LOCK, model, total_steps=10)
    assert (sparsifier.masks.removed(FIRST), sparsifier.masks.removed(SECOND)) == (0, 1)


def test_lock_on_a_dense_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match="method lock keeps the zeros .* this Module have none; load the pruned"
    ):
        Sparsifier(LOCK, stack(), total_steps=10)


def test_pruning_goes_on_from_the_zeros_of_a_sparse_model() -> None:
    model = sparse_stack(0.5)
    zeros = model.layers[0].weight == 0
    sparsifier = Sparsifier(gradual(), model, total_steps=10)
    assert sparsifier.masks.sparsity == 0.5
    model.layers[0].weight.data[zeros] = 100.0
    sparsifier.masks.apply_to_weights()
    sparsifier.update(4, None)
    assert not sparsifier.masks[FIRST][zeros].any()
    assert sparsifier.masks.removed(FIRST) == 115


def test_a_few_zeros_of_a_dense_model_are_free() -> None:
    sparsifier = Sparsifier(gradual(), sparse_stack(0.05), total_steps=10)
    assert sparsifier.masks.sparsity == 0


def test_single_zeros_do_not_block_a_block() -> None:
    model = stack()
    for layer in model.layers:
        layer.weight.data[:, ::4] = 0
    model.layers[0].weight.data[0, :4] = 0
    sparsifier = Sparsifier(gradual(pattern="1x4"), model, total_steps=10)
    assert (sparsifier.masks.removed(FIRST), sparsifier.masks.removed(SECOND)) == (4, 0)


def test_a_final_sparsity_below_that_of_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="64 weights of layers.0.weight are zero already") as caught:
        Sparsifier(gradual(0.3), sparse_stack(0.5), total_steps=10)
    assert "more than the 38 that final sparsity 0.3 removes" in str(caught.value)
    assert "raise sparsity.schedule.final, or use method lock" in str(caught.value)


def test_global_sparsity_is_compared_over_all_targets() -> None:
    model = sparse_stack(0.5)
    nn.init.ones_(model.layers[1].weight)
    Sparsifier(gradual(0.3, allocation="global"), model, total_steps=10)
    with pytest.raises(ValueError, match="64 weights of 2 targets are zero already, more than the 51"):
        Sparsifier(gradual(0.2, allocation="global"), model, total_steps=10)


def test_a_schedule_that_does_not_fit_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="ramp_end is step 4 of 4"):
        Sparsifier(gradual(), stack(), total_steps=4)


def test_a_pattern_that_does_not_tile_a_target_is_refused() -> None:
    with pytest.raises(
        ValueError, match="pattern 16x1 does not tile layers.0.weight of shape 8 x 16; exclude"
    ):
        check_targets(gradual(pattern="16x1"), stack())
    narrower = gradual(pattern="16x1").model_copy(update={"exclude": (r"layers\.0",)})
    assert check_targets(narrower, stack()).names == [SECOND]


def test_a_model_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has nothing to prune"):
        check_targets(gradual(), nn.Linear(4, 4))


def test_a_weight_written_from_outside_is_found() -> None:
    model = sparse_stack()
    sparsifier = Sparsifier(LOCK, model, total_steps=10)
    for layer, value in zip(model.layers, (1.0, float("nan")), strict=True):
        layer.weight.data[0, 0] = value
    with pytest.raises(
        RuntimeError, match=r"1 removed weights of layers.0.weight are not zero \(2 weights"
    ) as caught:
        sparsifier.verify(3)
    assert "remove that, or load the last checkpoint" in str(caught.value)


def test_a_missed_final_update_is_found() -> None:
    sparsifier = Sparsifier(gradual(), stack(), total_steps=10)
    sparsifier.update(2, None)
    sparsifier.verify(3)
    with pytest.raises(
        RuntimeError, match="100 weights of layers.0.weight are removed, the recipe asks for 115"
    ):
        sparsifier.verify(4)


def test_a_revival_that_starts_from_zeros_never_has_fewer(caplog: pytest.LogCaptureFixture) -> None:
    sparsifier = Sparsifier(gradual(0.8, revive=True), sparse_stack(0.5), total_steps=10)
    shares = []
    for step in range(10):
        sparsifier.update(step, None)
        shares.append(sparsifier.masks.sparsity)
    assert shares == sorted(shares) and shares[0] >= 0.49 and shares[-1] == pytest.approx(0.8, abs=0.01)


def test_a_weight_that_is_meant_to_stay_dense_is_no_rounding(caplog: pytest.LogCaptureFixture) -> None:
    Sparsifier(gradual(0.5, overrides={"layers.0": {"sparsity": 0.0}}), stack(), total_steps=10)
    assert "Whole blocks" not in caplog.text
    Sparsifier(gradual(0.9, pattern="8x8"), stack(), total_steps=10)
    assert "Whole blocks leave" in caplog.text
