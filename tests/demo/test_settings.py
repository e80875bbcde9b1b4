"""Settings of the demo and the recipes that follow from them."""

import pytest

from hf_sparse.demo.settings import DemoSettings


def test_the_baseline_has_the_sparsity_and_the_teacher_of_the_transfer() -> None:
    settings = DemoSettings(sparsity=0.75)
    assert settings.prune_recipe.sparsity.schedule.final == 0.75
    assert settings.finetune_recipe.sparsity.schedule.final == 0.75
    assert settings.finetune_recipe.distillation == settings.transfer_recipe.distillation
    assert settings.transfer_recipe.sparsity.method == "lock"


def test_the_budget_multiplies_the_steps_of_every_stage() -> None:
    once, twice = DemoSettings().plan, DemoSettings(budget=2).plan
    for name in ("prepare", "prune", "task", "quantize"):
        assert getattr(twice, name).steps == 2 * getattr(once, name).steps
        assert getattr(twice, name).learning_rate == getattr(once, name).learning_rate


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"sparsity": 1.0}, "between 0 and 1 such as 0.9, got 1.0"),
        ({"sparsity": 0.0}, "between 0 and 1"),
        ({"budget": 0}, "above 0, at most 1000, got 0"),
        ({"dataset_config": "sst2"}, "add --dataset"),
        ({"seed": -1}, "seed is at least 0, got -1"),
    ],
)
def test_impossible_wishes_are_refused(asked: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DemoSettings(**asked)
