"""Recipes: what is accepted, what it becomes, and what is said about mistakes."""

from pathlib import Path

import pytest

from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.recipe.sparsity import ScheduleRecipe, SparsityRecipe
from hf_sparse.sparsity.schedules import Schedule

PRESETS = ["gmp_finetune", "prune_ofa_80_1x4", "prune_ofa_85", "prune_ofa_90", "transfer"]


def schedule(**values: object) -> ScheduleRecipe:
    recipe = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.9, **values}}})
    return recipe.sparsity.schedule


def test_an_empty_recipe_does_nothing() -> None:
    assert Recipe().sparsity is None
    assert Recipe().distillation is None
    assert Recipe().to_dict() == {}
    assert Recipe.from_dict({}) == Recipe()


def test_defaults_are_gradual_unstructured_magnitude_pruning_of_every_layer_alike() -> None:
    sparsity = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.9}}}).sparsity
    assert sparsity == SparsityRecipe(
        method="magnitude",
        pattern="unstructured",
        schedule=ScheduleRecipe(
            final=0.9, shape="cubic", initial=0.0, begin="0%", ramp_end=None, update_end=None, every="1%"
        ),
        allocation="uniform",
        lr_rewind=False,
        include=(),
        exclude=(),
    )
    assert DistillationRecipe() == DistillationRecipe(temperature=2.0, task=0.5, logits=0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_dict_and_yaml_give_the_recipe_back(name: str, tmp_path: Path) -> None:
    recipe = Recipe.preset(name).override(["sparsity.exclude=[pooler]"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe
    assert Recipe.from_yaml(str(tmp_path / "recipe.yaml")).digest() == recipe.digest()


def test_a_yaml_file_reads_numbers_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("sparsity:\n  schedule: {final: 9e-1, begin: 1_000}\n")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml").sparsity.schedule == ScheduleRecipe(
        final=0.9, begin=1_000
    )


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().sparsity = None


def test_the_digest_ignores_whether_a_default_is_written_out() -> None:
    short = Recipe.from_dict({"sparsity": {"schedule": {"final": 0.9}}})
    long = Recipe.from_dict(
        {"sparsity": {"method": "magnitude", "schedule": {"final": 0.9, "shape": "cubic"}}}
    )
    assert short.digest() == long.digest()
    assert short.digest() != short.override(["sparsity.schedule.final=0.8"]).digest()


def test_overrides_change_one_setting_each_in_order() -> None:
    recipe = Recipe.preset("prune_ofa_90").override(
        ["sparsity.schedule.final=0.85", "distillation=null", "sparsity.schedule.final=0.7"]
    )
    assert recipe.sparsity.schedule.final == 0.7
    assert recipe.sparsity.schedule.update_end == "80%"
    assert recipe.distillation is None


def test_overrides_leave_the_original_alone() -> None:
    recipe = Recipe.preset("prune_ofa_90")
    recipe.override(["sparsity.schedule.final=0.5"])
    assert recipe.sparsity.schedule.final == 0.9


def test_overrides_add_a_part_that_was_not_there() -> None:
    recipe = Recipe().override(["sparsity.schedule.final=0.5", "distillation={}"])
    assert recipe.sparsity.schedule == ScheduleRecipe(final=0.5)
    assert recipe.distillation == DistillationRecipe()


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'sparsity.schedule.final.x=1': final is a value, not a group of settings"
    ):
        Recipe.preset("prune_ofa_90").override(["sparsity.schedule.final.x=1"])


def test_an_override_is_checked_like_a_recipe() -> None:
    with pytest.raises(ValueError, match="sparsity.schedule.finale is not a recipe key; did you mean final"):
        Recipe.preset("prune_ofa_90").override(["sparsity.schedule.finale=0.5"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsty": {}}, "sparsty is not a recipe key; did you mean sparsity?"),
        ({"zzz": 1}, "zzz is not a recipe key; known keys are sparsity, distillation"),
        (
            {"sparsity": {"schedule": {"final": 0.9, "ramp": 5}}},
            "sparsity.schedule.ramp is not a recipe key; did you mean ramp_end?",
        ),
        (
            {"distillation": {"zzz": 1}},
            "distillation.zzz is not a recipe key; known keys are temperature, task, logits",
        ),
        ({"sparsity": 5}, "sparsity is 5: input should be a valid dictionary"),
        ({"sparsity": {"schedule": {}}}, "sparsity.schedule.final: Field required"),
        ({"sparsity": {}}, "method magnitude needs a schedule; add at least schedule: {final: 0.9}"),
    ],
)
def test_a_wrong_structure_is_named_with_the_right_one(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match="recipe key|is 5|required|needs") as caught:
        Recipe.from_dict(values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sparsity.schedule.final=1.0", "sparsity.schedule.final is 1.0: a sparsity is the share"),
        ("sparsity.schedule.final=1", "sparsity.schedule.final is 1: a sparsity is the share"),
        ("sparsity.schedule.final=-0.1", "sparsity.schedule.final is -0.1: a sparsity is the share"),
        ("sparsity.schedule.final=.nan", "sparsity.schedule.final is nan: a sparsity is the share"),
        ("sparsity.schedule.final='0.9'", "sparsity.schedule.final is '0.9': input should be a valid number"),
        ("sparsity.schedule.final=true", "sparsity.schedule.final is True: input should be a valid number"),
        ("sparsity.schedule.final=90%", "sparsity.schedule.final is '90%': input should be a valid number"),
        ("sparsity.schedule.initial=1.0", "sparsity.schedule.initial is 1.0: a sparsity is the share"),
        (
            "sparsity.schedule.initial=0.95",
            "initial sparsity 0.95 exceeds final sparsity 0.9; sparsity only grows",
        ),
        (
            "sparsity.schedule.shape=cubik",
            "sparsity.schedule.shape is 'cubik': choose one of constant, cubic, linear, one_shot",
        ),
        (
            "sparsity.method=oblivion",
            "sparsity.method is 'oblivion': choose one of group_lasso, lock, magnitude",
        ),
        ("sparsity.allocation=er", "sparsity.allocation is 'er': choose one of erk, global, uniform"),
        (
            "sparsity.pattern=4",
            "sparsity.pattern is 4: input should be a valid string",
        ),
        (
            "sparsity.pattern=2:0",
            "sparsity.pattern is '2:0': '2:0' is not a pattern; write unstructured, or blocks",
        ),
        ("sparsity.lr_rewind=1", "sparsity.lr_rewind is 1: write true, false or cyclic"),
        ("sparsity.include=query", "sparsity.include is 'query': input should be a valid tuple"),
        ("sparsity.exclude=[1]", "sparsity.exclude.0 is 1: input should be a valid string"),
        ("distillation.temperature=0", "distillation.temperature is 0: input should be greater than 0"),
        ("distillation.temperature=.inf", "distillation.temperature is inf: input should be a finite number"),
        ("distillation.task=-1", "distillation.task is -1: input should be greater than or equal to 0"),
        (
            "distillation.logits=0",
            "logits has weight 0, so the teacher would be run for nothing; leave distillation out",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match="distillation|sparsity") as caught:
        Recipe.preset("prune_ofa_90").override([setting])
    assert message in str(caught.value)


@pytest.mark.parametrize("point", [1.0, 0.5, -1, True, "50", "half", "150%", "-1%", "nan%", "inf%", "%", [1]])
@pytest.mark.parametrize("name", ["begin", "ramp_end", "update_end", "every"])
def test_a_point_in_time_is_a_step_or_a_share(name: str, point: object) -> None:
    with pytest.raises(ValueError, match="a point in time is a whole number of steps such as 1000") as caught:
        schedule(**{name: point})
    assert f"sparsity.schedule.{name} is {point!r}: " in str(caught.value)
    assert "or a share of the run such as '50%'" in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="sparsity") as caught:
        Recipe.from_dict({"sparsity": {"schedule": {"final": 1.5, "begin": 1.0}, "patern": "1x4"}, "x": 1})
    for where in ("sparsity.schedule.final is 1.5", "begin is 1.0", "did you mean pattern?", "x is not a"):
        assert where in str(caught.value)


@pytest.mark.parametrize("values", [[1], "prune_ofa_90", None, 3])
def test_a_recipe_is_a_mapping(values: object) -> None:
    with pytest.raises(
        ValueError,
        match=f"a mapping of sparsity, distillation, quantization, got {type(values).__name__}",
    ):
        Recipe.from_dict(values)


@pytest.mark.parametrize("name", ["schedule", "pattern", "allocation", "lr_rewind"])
def test_lock_refuses_settings_without_effect(name: str) -> None:
    value = {"schedule": {"final": 0.9}, "pattern": "1x4", "allocation": "global", "lr_rewind": True}[name]
    with pytest.raises(ValueError, match=f"method lock keeps the zeros .* so {name} would be ignored"):
        Recipe.from_dict({"sparsity": {"method": "lock", name: value}})


def test_lock_accepts_a_choice_of_modules() -> None:
    recipe = Recipe.from_dict({"sparsity": {"method": "lock", "exclude": ["pooler"]}})
    assert recipe.sparsity.exclude == ("pooler",)


@pytest.mark.parametrize("shape", ["one_shot", "constant"])
@pytest.mark.parametrize("ramp", [{"ramp_end": "50%"}, {"initial": 0.1}])
def test_shapes_without_a_ramp_refuse_one(shape: str, ramp: dict) -> None:
    with pytest.raises(ValueError, match=f"a {shape} schedule lacks a ramp; leave out initial and ramp_end"):
        schedule(shape=shape, **ramp)


def test_a_constant_schedule_refuses_a_later_begin() -> None:
    with pytest.raises(ValueError, match="holds from the first step; leave out begin, or choose one_shot"):
        schedule(shape="constant", begin="10%")


@pytest.mark.parametrize("shape", ["one_shot", "constant"])
def test_rewinding_needs_a_ramp(shape: str) -> None:
    values = {"schedule": {"final": 0.9, "shape": shape}, "lr_rewind": True}
    with pytest.raises(ValueError, match=f"and a {shape} schedule has none; set lr_rewind: false"):
        Recipe.from_dict({"sparsity": values})


def test_the_ramp_ends_halfway_and_the_updates_with_it_by_default() -> None:
    assert schedule().resolve(1_000) == Schedule("cubic", 0.0, 0.9, 0, 500, 500, 10, 1_000)


def test_steps_and_shares_can_be_mixed() -> None:
    resolved = schedule(begin=100, ramp_end="50%", update_end=1_900, every="0.5%").resolve(2_000)
    assert resolved == Schedule("cubic", 0.0, 0.9, 100, 1_000, 1_900, 10, 2_000)


def test_shares_round_to_the_nearest_step() -> None:
    resolved = schedule(begin="1%", ramp_end="66.6%", update_end="99%").resolve(70)
    assert (resolved.begin, resolved.ramp_end, resolved.update_end) == (1, 47, 69)


@pytest.mark.parametrize(("total", "every"), [(10, 1), (99, 1), (149, 1), (250, 2), (1_000, 10)])
def test_a_share_between_updates_is_never_less_than_a_step(total: int, every: int) -> None:
    assert schedule().resolve(total).every == every


def test_a_written_interval_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="every counts steps from 1, got 0"):
        schedule(every=0).resolve(100)


def test_one_shot_prunes_when_it_begins() -> None:
    resolved = schedule(shape="one_shot", begin=30, update_end=80, every=10).resolve(100)
    assert (resolved.begin, resolved.ramp_end, resolved.update_end) == (30, 30, 80)


def test_constant_holds_from_the_start() -> None:
    resolved = schedule(shape="constant").resolve(100)
    assert (resolved.begin, resolved.ramp_end, resolved.sparsity(0)) == (0, 0, 0.9)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            {"begin": 60, "ramp_end": 50},
            "the ramp begins at step 60, after its end at step 50; move begin forward",
        ),
        (
            {"begin": 60},
            "the ramp begins at step 60, after its end at step 50",
        ),
        (
            {"ramp_end": 100},
            "ramp_end is step 100 of 100, but at least one step must train at the final sparsity; "
            "move ramp_end to 99 or earlier, or train longer",
        ),
        ({"ramp_end": "100%"}, "ramp_end is step 100 of 100"),
        ({"ramp_end": 1_000}, "ramp_end is step 1000 of 100"),
        (
            {"update_end": 40},
            "update_end must lie between ramp_end and the last step, got step 40 outside [50, 100]",
        ),
        ({"update_end": 101}, "got step 101 outside [50, 100]"),
    ],
)
def test_points_that_the_run_cannot_hold_are_refused(points: dict, message: str) -> None:
    with pytest.raises(ValueError, match="step") as caught:
        schedule(**points).resolve(100)
    assert message in str(caught.value)
