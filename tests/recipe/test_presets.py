"""The recipes that come with the package."""

import pytest

from hf_sparse.fields import steps_of
from hf_sparse.planning.plan import make_plan
from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.recipe.recipe import Recipe, preset_names
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.schedules import Schedule

PRESETS = [
    "gmp_finetune",
    "gmp_star",
    "group_lasso_block",
    "group_lasso_paper",
    "group_lasso_strips",
    "prune_encoder_85",
    "prune_encoder_90",
    "prune_ofa_80_1x4",
    "prune_ofa_85",
    "prune_ofa_90",
    "transfer",
    "transfer_int4",
    "transfer_int8",
]


def test_preset_names_are_those_of_the_package() -> None:
    assert preset_names() == PRESETS


@pytest.mark.parametrize(("name", "final"), [("prune_encoder_85", 0.85), ("prune_encoder_90", 0.9)])
def test_prune_encoder_presets_follow_hidden_states_alone(name: str, final: float) -> None:
    recipe = Recipe.preset(name)
    assert recipe.sparsity.schedule.resolve(1_000) == Schedule("cubic", 0.0, final, 0, 400, 400, 10, 1_000)
    assert recipe.distillation.weights == {"task": 0.0, "logits": 0.0, "hidden": 1.0}
    assert recipe.distillation.teacher == "self" and recipe.distillation.hidden.normalize


@pytest.mark.parametrize(("name", "final"), [("prune_ofa_85", 0.85), ("prune_ofa_90", 0.9)])
def test_prune_ofa_presets_are_the_published_recipe(name: str, final: float) -> None:
    recipe = Recipe.preset(name)
    expected = Schedule("cubic", 0.0, final, 0, 50_000, 80_000, 1_000, 100_000)
    assert recipe.sparsity.schedule.resolve(100_000) == expected
    assert recipe.sparsity.pattern == "unstructured"
    assert recipe.sparsity.allocation == "uniform"
    assert recipe.sparsity.lr_rewind is True
    # Without it no mask would change after the ramp, and the authors' did until step 80,000.
    assert recipe.sparsity.revive is True
    assert recipe.distillation == DistillationRecipe(temperature=2.0, task=0.5, logits=0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_says_of_updates_has_an_effect(name: str) -> None:
    sparsity = Recipe.preset(name).sparsity
    schedule = sparsity.schedule and sparsity.schedule.resolve(1_000)
    assert schedule is None or schedule.update_end == schedule.ramp_end or sparsity.revives


def test_the_block_preset_runs_along_the_inputs() -> None:
    sparsity = Recipe.preset("prune_ofa_80_1x4").sparsity
    assert (sparsity.pattern, sparsity.schedule.final, sparsity.lr_rewind) == ("1x4", 0.8, True)


def test_the_transfer_preset_locks_and_listens_to_the_teacher_alone() -> None:
    recipe = Recipe.preset("transfer")
    assert recipe.sparsity == SparsityRecipe(method="lock")
    assert recipe.distillation == DistillationRecipe(temperature=2.0, task=0.0, logits=1.0)


@pytest.mark.parametrize(
    ("name", "weights"), [("transfer_int8", "int8_per_channel"), ("transfer_int4", "int4_per_channel")]
)
def test_the_quantized_transfer_presets_add_nothing_else(name: str, weights: str) -> None:
    recipe = Recipe.preset(name)
    assert recipe.model_copy(update={"quantization": None}) == Recipe.preset("transfer")
    assert (recipe.quantization.weights, recipe.quantization.activations) == (weights, "uint8_per_tensor")


def test_the_fine_tuning_preset_needs_no_teacher() -> None:
    recipe = Recipe.preset("gmp_finetune")
    assert recipe.distillation is None
    assert not recipe.sparsity.lr_rewind
    assert recipe.sparsity.schedule.resolve(1_000) == Schedule("cubic", 0.0, 0.85, 100, 600, 600, 10, 1_000)


def test_the_star_preset_is_the_published_schedule_in_shares_of_the_run() -> None:
    """Of 30 epochs: two dense, the first 70 % at once, the rest until epoch 26."""
    recipe = Recipe.preset("gmp_star")
    schedule = recipe.sparsity.schedule.resolve(30_000)
    assert [schedule.begin, schedule.ramp_end] == pytest.approx([2_000, 26_000], abs=1)
    assert (schedule.initial, schedule.sparsity(2_000)) == (0.7, 0.7)
    assert schedule.sparsity(14_000) == pytest.approx(0.875, abs=1e-4)
    assert (recipe.sparsity.allocation, recipe.sparsity.lr_rewind) == ("global", "cyclic")
    assert recipe.distillation == DistillationRecipe(temperature=2.0, task=0.0, logits=1.0)


@pytest.mark.parametrize("total", [75, 100, 321, 1_000, 2_345, 30_000, 123_456])
def test_the_star_preset_updates_and_restarts_every_four_of_thirty_epochs(total: int) -> None:
    plan = make_plan(Recipe.preset("gmp_star"), total, learning_rate=8e-5)
    assert len(plan.updates) == 7
    epochs = [step * 30 / total for step in plan.updates]
    assert epochs == pytest.approx([2, 6, 10, 14, 18, 22, 26], abs=0.05 + 90 / total)
    rates = plan.learning_rate[1:]
    assert [step for step in range(1, total) if rates[step] > rates[step - 1]] == list(plan.updates)
    assert max(rates) == 8e-5 and min(rates) > 8e-6


def test_the_paper_preset_is_the_penalty_as_the_authors_wrote_it() -> None:
    recipe = Recipe.preset("group_lasso_paper")
    lasso = recipe.sparsity.group_lasso
    assert (recipe.sparsity.method, recipe.sparsity.pattern) == ("group_lasso", "row/8")
    assert (lasso.step, lasso.spare, lasso.adapt) == ("gradient", False, False)
    assert (lasso.strength, lasso.epsilon) == (1e-4, 1e-3)
    # Anew every fourth of six epochs, of which the first three have a penalty.
    assert steps_of(lasso.refresh, 6_000) == pytest.approx(4_000, abs=1)
    assert recipe.sparsity.schedule.resolve(6_000).ramp_end == 3_000


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"no preset is called 'prune'; choose one of {', '.join(PRESETS)}"):
        Recipe.preset("prune")


@pytest.mark.parametrize("total", [1, 2, 3, 10, 99, 101])
@pytest.mark.parametrize("name", PRESETS[:8])
def test_presets_fit_runs_of_any_length(name: str, total: int) -> None:
    resolved = Recipe.preset(name).sparsity.schedule.resolve(total)
    assert resolved.is_update(resolved.ramp_end)
    assert resolved.sparsity(total - 1) == resolved.final
