"""Recipes of distillation: feature terms, where the teacher is from, what is refused."""

import json
from pathlib import Path

import pytest

from hf_sparse.recipe.distillation import AttentionRecipe, DistillationRecipe, HiddenRecipe, RelationsRecipe
from hf_sparse.recipe.recipe import Recipe


def distillation(**values: object) -> DistillationRecipe:
    return Recipe.from_dict({"distillation": values}).distillation


def test_there_are_no_feature_terms_by_default() -> None:
    recipe = distillation()
    assert (recipe.hidden, recipe.attention, recipe.relations, recipe.teacher) == (None, None, None, "given")
    assert recipe.features == {}
    assert Recipe.from_dict({"distillation": {}}).to_dict() == {"distillation": {}}


def test_a_number_is_the_weight_of_a_term_with_the_layers_of_its_paper() -> None:
    recipe = distillation(hidden=2, attention=0.5, relations=1.0)
    assert recipe.hidden == HiddenRecipe(weight=2, layers="uniform")
    assert recipe.attention == AttentionRecipe(weight=0.5, layers="last")
    assert recipe.relations == RelationsRecipe(weight=1.0, layers="last", heads=None)
    assert list(recipe.features) == ["hidden", "attention", "relations"]


def test_an_empty_term_has_weight_1() -> None:
    assert distillation(hidden={}).hidden.weight == 1.0


def test_a_term_of_weight_0_is_off() -> None:
    assert distillation(hidden=0, attention={"weight": 0.0, "layers": "last"}).features == {}


def test_logits_may_have_weight_0_beside_a_feature_term() -> None:
    assert distillation(logits=0, relations=1.0).logits == 0


@pytest.mark.parametrize("values", [{}, {"hidden": 0}, {"hidden": None, "attention": {"weight": 0}}])
def test_a_teacher_of_whom_nothing_is_learned_is_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="teacher would be run for nothing; leave distillation out, or give"):
        distillation(logits=0.0, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden": 1.0},
        {"hidden": {"weight": 0.5, "layers": {2: 4, 1: 2}}, "logits": 0},
        {"attention": {"layers": "uniform"}, "teacher": "self"},
        {"relations": {"heads": 12, "layers": {6: 11}}},
    ],
)
def test_dict_and_yaml_give_the_recipe_back(values: dict, tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"distillation": values})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").digest() == recipe.digest()


def test_only_what_was_written_is_written_back() -> None:
    recipe = Recipe.from_dict({"distillation": {"hidden": 0.5, "relations": {"heads": 4}}})
    assert recipe.to_dict() == {"distillation": {"hidden": {"weight": 0.5}, "relations": {"heads": 4}}}


def test_layers_are_sorted_numbers_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("distillation:\n  hidden: {layers: {2: 4, 0: 0, 1: 2}}\n")
    assert list(Recipe.from_yaml(tmp_path / "recipe.yaml").distillation.hidden.layers.items()) == [
        (0, 0),
        (1, 2),
        (2, 4),
    ]
    assert distillation(hidden={"layers": {"10": 12, "9": 11}}).hidden.layers == {9: 11, 10: 12}


def test_hidden_errors_are_normalized_unless_a_recipe_says_otherwise() -> None:
    plain = distillation(hidden=1).hidden
    assert (plain.normalize, plain.layer_weights, plain.log_layers) == (True, {}, False)
    assert not distillation(hidden={"normalize": False}).hidden.normalize


def test_weights_of_layers_go_by_number_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("distillation:\n  hidden: {layer_weights: {6: 0.5, 0: 2}}\n")
    recipe = Recipe.from_yaml(tmp_path / "recipe.yaml")
    assert recipe.distillation.hidden.layer_weights == {6: 0.5, 0: 2.0}
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert distillation(hidden={"layer_weights": {"6": 0.5, "0": 2}}) == recipe.distillation
    changed = recipe.override(
        ["distillation.hidden.layer_weights={6: 0.25}", "distillation.hidden.log_layers=true"]
    )
    assert changed.distillation.hidden.layer_weights == {6: 0.25} and changed.distillation.hidden.log_layers


def test_overrides_reach_into_a_term() -> None:
    recipe = Recipe.preset("prune_ofa_90").override(["distillation.hidden=0.5"])
    recipe = recipe.override(["distillation.hidden.layers=last", "distillation.relations.heads=4"])
    assert recipe.distillation.hidden == HiddenRecipe(weight=0.5, layers="last")
    assert recipe.distillation.relations == RelationsRecipe(weight=1.0, heads=4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden=-1", "distillation.hidden.weight is -1: input should be greater than or equal to 0"),
        ("hidden=true", "distillation.hidden is True: write a weight such as 1.0"),
        ("hidden.layer=last", "distillation.hidden.layer is not a recipe key; did you mean layers?"),
        ("hidden.heads=2", "distillation.hidden.heads is not a recipe key"),
        ("hidden.layers=first", "distillation.hidden.layers is 'first': choose one of uniform, last, or map"),
        ("hidden.layers=3", "distillation.hidden.layers is 3: choose one of uniform, last, or map numbers"),
        ("hidden.layers={}", "distillation.hidden.layers: choose one of uniform, last, or map numbers"),
        ("hidden.layers={one: 2}", "distillation.hidden.layers: choose one of uniform, last, or map numbers"),
        ("hidden.layers={1: -2}", "distillation.hidden.layers: choose one of uniform, last, or map numbers"),
        ("hidden.layers={1: 1.5}", "distillation.hidden.layers: choose one of uniform, last, or map numbers"),
        ("hidden.layers={1: true}", "distillation.hidden.layers: choose one of uniform, last, or map"),
        (
            "hidden.normalize=maybe",
            "distillation.hidden.normalize is 'maybe': input should be a valid boolean",
        ),
        (
            "hidden.layer_weights=2",
            "distillation.hidden.layer_weights is 2: map numbers of student layers to",
        ),
        (
            "hidden.layer_weights={last: 2}",
            "distillation.hidden.layer_weights: map numbers of student layers",
        ),
        ("hidden.layer_weights={-1: 2}", "distillation.hidden.layer_weights: map numbers of student layers"),
        (
            "hidden.layer_weights={6: -1}",
            "distillation.hidden.layer_weights.6 is -1: input should be greater",
        ),
        (
            "hidden.layer_weights={6: much}",
            "distillation.hidden.layer_weights.6 is 'much': input should be a",
        ),
        ("attention.normalize=true", "distillation.attention.normalize is not a recipe key"),
        ("relations.heads=0", "distillation.relations.heads is 0: input should be greater than or equal to"),
        ("teacher=me", "distillation.teacher is 'me': choose one of base, given, self"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match="distillation") as caught:
        Recipe.preset("prune_ofa_90").override([f"distillation.{setting}"])
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", ["strong", True, [1]])
def test_a_term_is_a_weight_or_settings(wrong: object) -> None:
    with pytest.raises(ValueError, match="write a weight such as 1.0, or settings such as"):
        distillation(hidden=wrong)


def test_a_layer_has_one_weight() -> None:
    with pytest.raises(ValueError, match="each layer has one weight; write its number once"):
        distillation(hidden={"layer_weights": {2: 0.1, "2": 0.7}})
