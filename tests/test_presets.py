"""The recipes that come with the package."""

import pytest

from hf_sparse.recipe import Recipe, preset_names
from hf_sparse.settings.distillation import DistillationRecipe
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.schedules import Schedule

PRESETS = [
    "gmp_finetune",
    "gmp_star",
    "group_lasso_block",
    "group_lasso_strips",
    "prune_ofa_80_1x4",
    "prune_ofa_85",
    "prune_ofa_90",
    "transfer",
    "transfer_int4",
    "transfer_int8",
]


def test_preset_names_are_those_of_the_package() -> None:
    assert preset_names() == PRESETS


@pytest.mark.parametrize(("name", "final"), [("prune_ofa_85", 0.85), ("prune_ofa_90", 0.9)])
def test_prune_ofa_presets_are_the_published_recipe(name: str, final: float) -> None:
    recipe = Recipe.preset(name)
    expected = Schedule("cubic", 0.0, final, 0, 50_000, 80_000, 1_000, 100_000)
    assert recipe.sparsity.schedule.resolve(100_000) == expected
    assert recipe.sparsity.pattern == "unstructured"
    assert recipe.sparsity.allocation == "uniform"
    assert recipe.sparsity.lr_rewind
    assert recipe.distillation == DistillationRecipe(temperature=2.0, task=0.5, logits=0.5)


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
    assert (schedule.begin, schedule.ramp_end, schedule.initial) == (2_100, 26_100, 0.7)
    assert schedule.sparsity(2_100) == 0.7 and schedule.sparsity(14_100) == pytest.approx(0.875)
    assert (recipe.sparsity.allocation, recipe.sparsity.lr_rewind) == ("global", "cyclic")
    assert recipe.distillation == DistillationRecipe(temperature=2.0, task=0.0, logits=1.0)


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"no preset is called 'prune'; choose one of {', '.join(PRESETS)}"):
        Recipe.preset("prune")


@pytest.mark.parametrize("total", [1, 2, 3, 10, 99, 101])
@pytest.mark.parametrize("name", PRESETS[:5])
def test_presets_fit_runs_of_any_length(name: str, total: int) -> None:
    resolved = Recipe.preset(name).sparsity.schedule.resolve(total)
    assert resolved.is_update(resolved.ramp_end)
    assert resolved.sparsity(total - 1) == resolved.final
