"""The plan of the accuracy study as it is read, and what of it is left to be run."""

import json
from pathlib import Path

import pytest
from stages import ENCODER, Places, Stage, read_plan, to_make
from transformers import HfArgumentParser, TrainingArguments

import common
import run_glue
import run_mlm
import run_qa
from hf_sparse import SparseArguments
from hf_sparse.recipe.published_arguments import given_arguments
from hf_sparse.recipe.recipe import preset_names
from tests.benchmarks.accuracy.fakes import write_plan

ROOT = Path(__file__).parents[3]
PLAN = read_plan(ROOT / "benchmarks" / "accuracy" / "plan.yaml")
KINDS = {
    "run_glue": (run_glue.GlueModelArguments, run_glue.GlueDataArguments),
    "run_mlm": (run_mlm.MlmModelArguments, run_mlm.MlmDataArguments),
    "run_qa": (common.ModelArguments, run_qa.QaDataArguments),
}
CHAIN = {"dense": {}, "up": {}, "task": {"start": "up", "teacher": "dense"}, "last": {"start": "task"}}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places("encoder", tmp_path / "data", tmp_path / "work")


def finish(places: Places, *names: str) -> None:
    for name in names:
        places.output(name).mkdir(parents=True)
        places.ending(name).write_text("{}")


@pytest.mark.parametrize("name", PLAN)
def test_a_stage_of_the_plan_is_what_its_script_takes(name: str) -> None:
    stage = PLAN[name]
    script, *words = stage.command(Places("e", Path("d"), Path("w")), ROOT / "scripts")
    assert Path(script).is_file()
    kinds = (*KINDS[stage.script], TrainingArguments, SparseArguments)
    given = given_arguments(HfArgumentParser(kinds), words)
    assert given["seed"] == stage.seed and given["do_train"] and given["do_eval"]
    assert stage.recipe is None or stage.recipe in preset_names()
    recipe = SparseArguments(recipe=stage.recipe, recipe_override=list(stage.override)).build_recipe()
    alone = stage.recipe is None or "distillation=null" in stage.override
    assert (recipe.distillation is None) == alone
    if stage.distance is not None:
        assert stage.distance.keys() == {"data", "columns", "samples", "max_seq_length"}


def test_a_plan_is_read_in_its_order_with_what_each_stage_needs(tmp_path: Path) -> None:
    stages = read_plan(write_plan(tmp_path / "plan.yaml", **CHAIN))
    assert list(stages) == ["dense", "up", "task", "last"]
    assert [stage.needs for stage in stages.values()] == [(), (), ("up", "dense"), ("task",)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"one": {"budget": 3}}, "stage one has an unknown key 'budget'; known are arguments, data"),
        ({"one": {"start": "two"}, "two": {}}, "stage one needs two, which is not above it in plan.yaml"),
        ({"one": {"teacher": "none"}}, "stage one needs none, which is not above it"),
        ({"a.b": {}}, "'a.b' cannot be a stage"),
        ({"lock": {}}, "'lock' cannot be a stage"),
        ({"one": {"arguments": 3}}, "arguments of stage one are a mapping, got 3"),
        ({"one": {"override": "a=1"}}, r"override of stage one is a list of assignments; write \[a=1\]"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(tmp_path: Path, stages: dict[str, dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(write_plan(tmp_path / "plan.yaml", **stages))


@pytest.mark.parametrize("given", ["{script: fake, start: ENCODER}", ""])
def test_a_stage_without_a_key_is_refused(tmp_path: Path, given: str) -> None:
    (tmp_path / "plan.yaml").write_text(f"stages:\n  one: {given}\n")
    with pytest.raises(ValueError, match="stage one lacks (data|script); add it to plan.yaml"):
        read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("standing", "measured", "only", "left"),
    [
        ([], [], None, ["dense", "up", "task", "last"]),
        (["dense", "up"], ["dense", "up"], None, ["task", "last"]),
        # A new machine: only what the last stage needs, from the nearest that stands.
        ([], ["dense", "up", "task"], None, ["up", "dense", "task", "last"]),
        (["task"], ["dense", "up", "task"], None, ["last"]),
        ([], ["dense", "up", "task", "last"], None, []),
        # A model that came from elsewhere has results, which are not published yet.
        (["dense"], [], ["dense"], ["dense"]),
        ([], [], ["task"], ["up", "dense", "task"]),
        (["up", "dense"], [], ["last"], ["task", "last"]),
    ],
)
def test_what_is_left_to_be_run(
    tmp_path: Path, places: Places, standing: list[str], measured: list[str], only: list[str], left: list[str]
) -> None:
    stages = read_plan(write_plan(tmp_path / "plan.yaml", **CHAIN))
    finish(places, *standing)
    for name in measured:
        (tmp_path / f"{name}.json").write_text("{}")
    assert to_make(stages, places, tmp_path, only) == left


def test_a_command_names_its_models_and_lists_by_their_words(places: Places) -> None:
    stage = Stage(
        "s", "run_glue", ENCODER, "sst2", "t", "transfer", ("a=1", "b=2"), 3, {"freeze": ["x", "y"]}
    )
    words = stage.command(places, Path("scripts"))
    assert words[:3] == ["scripts/run_glue.py", "--model_name_or_path", "encoder"]
    assert words[words.index("--teacher_name_or_path") + 1] == str(places.work / "t")
    start = words.index("--recipe_override")
    assert words[start : start + 3] == ["--recipe_override", "a=1", "b=2"]
    assert words[-5:] == ["--seed", "3", "--freeze", "x", "y"]


def test_what_is_copied_of_a_stage_ends_with_what_says_that_it_is_whole(places: Places) -> None:
    finish(places, "up")
    for name in ("tokenizer.json", "model.safetensors", "training_args.bin", "checkpoint-3/optimizer.pt"):
        path = places.output("up") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({}))
    assert places.files("up") == ["up/model.safetensors", "up/tokenizer.json", "up/stage.json"]
    with pytest.raises(ValueError, match="stage task is not finished in .*; run it first"):
        places.files("task")


def test_a_plan_without_stages_is_refused(tmp_path: Path) -> None:
    for text in ("", "stages: hello", "- a"):
        (tmp_path / "plan.yaml").write_text(text)
        with pytest.raises(ValueError, match="plan.yaml lacks stages; write under stages: a mapping"):
            read_plan(tmp_path / "plan.yaml")
