"""Command-line arguments and the recipe they describe."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from hf_sparse import TeacherCache
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.arguments import SparseArguments


def parse(*words: str) -> SparseArguments:
    (arguments,) = HfArgumentParser(SparseArguments).parse_args_into_dataclasses(list(words))
    return arguments


def recipe(*words: str) -> Recipe:
    return parse(*words).build_recipe()


def test_no_arguments_mean_no_recipe() -> None:
    assert parse() == SparseArguments()
    assert recipe() == Recipe()


def test_a_preset_is_named() -> None:
    assert recipe("--recipe", "prune_ofa_90") == Recipe.preset("prune_ofa_90")


def test_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sparsity: {schedule: {final: 0.7}}")
    assert recipe("--recipe", str(path)).sparsity.schedule.final == 0.7


def test_overrides_follow_one_another() -> None:
    changed = recipe(
        "--recipe", "prune_ofa_90", "--recipe_override", "sparsity.schedule.final=0.85", "distillation=null"
    )
    assert changed == Recipe.preset("prune_ofa_90").override(
        ["sparsity.schedule.final=0.85", "distillation=null"]
    )


@pytest.mark.parametrize("value", ["0.7", "0", "7e-1", "1e-5"])
def test_sparsity_alone_prunes_while_fine_tuning(value: str) -> None:
    expected = Recipe.preset("gmp_finetune").override([f"sparsity.schedule.final={value}"])
    assert recipe("--sparsity", value) == expected
    assert expected.sparsity.schedule.final == float(value)


def test_sparsity_and_pattern_change_a_recipe() -> None:
    sparsity = recipe("--recipe", "prune_ofa_90", "--sparsity", "0.8", "--pattern", "1x4").sparsity
    assert (sparsity.schedule.final, sparsity.pattern, sparsity.lr_rewind) == (0.8, "1x4", True)


@pytest.mark.parametrize(
    ("asked", "weights"),
    [
        ("int8", "int8_per_channel"),
        ("int4", "int4_per_channel"),
        ("int8_per_tensor", "int8_per_tensor"),
        ("int4_group_32", "int4_group_32"),
    ],
)
def test_quantize_alone_does_nothing_else(asked: str, weights: str) -> None:
    assert recipe("--quantize", asked) == Recipe.from_dict({"quantization": {"weights": weights}})


@pytest.mark.parametrize(
    "words", [("--recipe", "transfer"), ("--sparsity", "0.8"), ("--recipe", "transfer_int8")]
)
def test_quantize_adds_to_a_recipe_and_leaves_the_rest_of_it(words: tuple[str, ...]) -> None:
    plain, added = recipe(*words), recipe(*words, "--quantize", "int4")
    assert added.quantization.weights == "int4_per_channel"
    assert added.quantization.activations == "uint8_per_tensor"
    assert added.model_copy(update={"quantization": plain.quantization}) == plain


def test_an_override_changes_what_quantize_asks_for() -> None:
    words = ("--quantize", "int8", "--recipe_override", "quantization.begin=20%")
    begun = recipe(*words).quantization
    assert (begun.weights, begun.begin) == ("int8_per_channel", "20%")
    assert recipe(*words, "quantization.weights=int4_per_tensor").quantization.weights == "int4_per_tensor"


def test_an_override_has_the_last_word() -> None:
    words = ("--sparsity", "0.8", "--pattern", "4x1", "--recipe_override")
    sparsity = recipe(*words, "sparsity.schedule.final=0.6", "sparsity.pattern=16x1").sparsity
    assert (sparsity.schedule.final, sparsity.pattern) == (0.6, "16x1")


def test_teacher_and_permission_are_passed_on() -> None:
    arguments = parse("--teacher_name_or_path", "teacher", "--allow_schedule_change")
    assert (arguments.teacher_name_or_path, arguments.allow_schedule_change) == ("teacher", True)
    assert arguments.build_recipe() == Recipe()


def test_a_teacher_cache_is_described() -> None:
    assert parse().build_teacher_cache() is None
    assert parse("--teacher_cache", "outputs").build_teacher_cache() == TeacherCache("outputs")
    changed = parse(
        "--teacher_cache", "outputs", "--teacher_cache_top_k", "0", "--teacher_cache_half", "True"
    )
    assert changed.build_teacher_cache() == TeacherCache("outputs", top_k=None, half=True)
    with pytest.raises(
        ValueError, match="--teacher_cache_states is about a teacher cache, and none is given"
    ):
        parse("--teacher_cache_states").build_teacher_cache()
    with pytest.raises(ValueError, match="top_k is a whole number, at least 1, got -1"):
        parse("--teacher_cache", "outputs", "--teacher_cache_top_k", "-1").build_teacher_cache()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pattern", "1x4"), "--pattern changes a recipe, and none is given; add --recipe or --sparsity"),
        (
            ("--recipe_override", "distillation.task=1"),
            "--recipe_override changes a recipe, and none is given; add --recipe, --sparsity or --quantize",
        ),
        (("--quantize", "int8", "--pattern", "1x4"), "--pattern changes a recipe, and none is given"),
        (("--quantize", "int9"), "quantization.weights is 'int9': "),
        (("--quantize", "8"), "quantization.weights is 8: "),
        (
            ("--quantize", "none"),
            "quantization.weights is 'none': 'none' is not a scheme of weights; write int8",
        ),
        (
            ("--recipe", "prune_ofa"),
            "recipe prune_ofa is neither a file nor a preset; presets are gmp_finetune, gmp_star,",
        ),
        (
            ("--sparsity", "1.0"),
            "sparsity.schedule.final is 1.0: a sparsity is the share of weights to remove",
        ),
        (
            ("--sparsity", "-0.5"),
            "sparsity.schedule.final is -0.5: a sparsity is the share",
        ),
        (("--sparsity", "nan"), "sparsity.schedule.final is "),
        (("--sparsity", "0.5", "--pattern", "2:x"), "'2:x' is not a pattern; write unstructured, or blocks"),
        (("--sparsity", "0.5", "--pattern", "4"), "sparsity.pattern is "),
        (("--recipe", "transfer", "--sparsity", "0.9"), "method lock keeps the zeros the model comes with"),
        (("--recipe", "prune_ofa_90", "--recipe_override", "lr"), "'lr' is not an assignment; write it like"),
    ],
)
def test_arguments_that_contradict_or_mean_nothing_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match="-|is |method") as caught:
        recipe(*words)
    assert message in str(caught.value)


def test_a_directory_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither a file nor a preset"):
        recipe("--recipe", str(tmp_path))
