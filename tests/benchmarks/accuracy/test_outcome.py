"""What a finished stage is worth."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from attempts import Attempt, Attempts
from outcome import add_sizes, finish, is_trained, name_of, standard_errors
from stages import Places, Stage

from benchmarks.readme import KEYS
from tests.benchmarks.accuracy.fakes import leave_trained, published

DISTANCE = {"data": "qnli/validation.parquet", "columns": ["a", "b"], "samples": 8, "max_seq_length": 16}
STAGE = Stage(
    "up",
    "run_mlm",
    "ENCODER",
    "text",
    recipe="prune_encoder_90",
    override=("sparsity={method: lock}",),
    group="upstream 90 %",
    distance=DISTANCE,
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places("encoder", tmp_path / "data", tmp_path / "work")


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    attempts = Attempts(tmp_path / "up.attempts.json")
    attempts.all = [Attempt("2026-12-01", 30.0, 20.0), Attempt("2026-12-01", 12.5, 10.25)]
    return attempts


def measured(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    output = json.dumps({"texts": 8, "distances": {"1": 0.123456, "2": 0.5}})
    return subprocess.CompletedProcess(command, 0, output, "")


@pytest.mark.parametrize(
    ("found", "errors"),
    [
        # sqrt(.8876 * .1124 / 872)
        ({"eval_accuracy": 0.8876, "eval_samples": 872}, {"accuracy_error": 0.0107}),
        ({"eval_accuracy": 0.5, "eval_samples": 100}, {"accuracy_error": 0.05}),
        ({"eval_accuracy": 1.0, "eval_samples": 100}, {"accuracy_error": 0.0}),
        ({"eval_accuracy": 0.0, "eval_samples": 100}, {"accuracy_error": 0.0}),
        # In percent; that of F1 is a bound.
        (
            {"eval_exact_match": 70.0, "eval_f1": 80.0, "eval_samples": 2000},
            {"exact_match_error": 1.0247, "f1_error": 0.8944},
        ),
        # F1 of a class is no mean over rows.
        ({"eval_accuracy": 0.9, "eval_f1": 0.8, "eval_samples": 900}, {"accuracy_error": 0.01}),
        ({"eval_distance_1": 0.1, "eval_samples": 100}, {}),
    ],
)
def test_the_standard_error_of_a_score(found: dict[str, float], errors: dict[str, float]) -> None:
    assert standard_errors(found) == errors


def test_results_say_what_was_run_what_it_cost_and_what_it_came_to(
    places: Places, attempts: Attempts, tmp_path: Path
) -> None:
    leave_trained(places.output("up"))
    commands = []
    row = finish(
        STAGE, places, tmp_path, attempts, lambda command: commands.append(command) or measured(command)
    )
    result = json.loads((tmp_path / "up.json").read_text())
    assert (
        result["rows"]
        == [row]
        == [
            {
                "stage": "up",
                "group": "upstream 90 %",
                "steps": 200,
                "tokens": 2000,
                "seconds": 42.5,
                "cpu_seconds": 30.2,
                "attempts": 2,
                "sparsity": 0.5,
                "accuracy": 0.75,
                "accuracy_error": 0.0433,
                "distances": {"1": 0.1235, "2": 0.5},
            }
        ]
    )
    assert set(KEYS) <= result.keys() and set(result["columns"]) == row.keys() - {"distances"}
    assert result["settings"] == {
        "start": "ENCODER",
        "teacher": None,
        "recipe": {"sparsity": {"method": "lock"}},
        "seed": 42,
        "data": "text",
        "encoder": "encoder",
    }
    assert result["curve"] == [{"step": 100, "tokens": 1000, "loss": 0.25}]
    assert result["command"].startswith(
        "python scripts/run_mlm.py --model_name_or_path ENCODER --dataset_name DATA/text "
        "--output_dir WORK/up --recipe prune_encoder_90 --recipe_override 'sparsity={method: lock}' "
    )
    assert str(tmp_path) not in json.dumps(result)
    ((_, _, _, model, encoder, data, *options),) = commands
    assert (model, encoder) == (str(places.output("up")), "encoder")
    assert data == str(tmp_path / "data" / "qnli" / "validation.parquet")
    assert options[-4:] == ["--text-column", "a", "--text-column", "b"]


def test_a_stage_that_is_made_again_keeps_its_published_results(
    places: Places, attempts: Attempts, tmp_path: Path
) -> None:
    leave_trained(places.output("up"))
    (tmp_path / "up.json").write_text("published")
    finish(STAGE, places, tmp_path, attempts, measured)
    assert (tmp_path / "up.json").read_text() == "published"
    assert places.stands("up")


def test_results_from_another_machine_are_published_as_they_came(
    places: Places, attempts: Attempts, tmp_path: Path
) -> None:
    places.output("up").mkdir(parents=True)
    places.ending("up").write_text('{"hardware": "a GPU", "rows": [{"stage": "up"}]}')
    assert finish(STAGE, places, tmp_path, attempts, measured) == {"stage": "up"}
    assert (tmp_path / "up.json").read_bytes() == places.ending("up").read_bytes()


def test_a_stage_is_not_finished_where_it_cannot_be_measured(
    places: Places, attempts: Attempts, tmp_path: Path
) -> None:
    leave_trained(places.output("up"))
    failing = subprocess.CompletedProcess([], 2, "", "no such file")
    with pytest.raises(RuntimeError, match="evaluate-distance ended with exit code 2: no such file"):
        finish(STAGE, places, tmp_path, attempts, lambda command: failing)
    assert not places.stands("up") and not (tmp_path / "up.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "hf_sparse_run.json",
        "trainer_state.json",
        "eval_results.json",
        "all_results.json",
    ],
)
def test_a_stage_is_trained_when_all_that_it_leaves_is_there(tmp_path: Path, name: str) -> None:
    leave_trained(tmp_path)
    assert is_trained(tmp_path)
    (tmp_path / name).unlink()
    assert not is_trained(tmp_path)


@pytest.mark.parametrize("content", ['{"eval_accuracy": 0.7', '{"train_loss": 0.1}'])
def test_a_stage_that_was_killed_while_it_wrote_its_scores_is_not_trained(
    tmp_path: Path, content: str
) -> None:
    leave_trained(tmp_path)
    (tmp_path / "all_results.json").write_text(content)
    assert not is_trained(tmp_path)


def test_an_encoder_is_named_for_readers_elsewhere(tmp_path: Path) -> None:
    assert name_of("org/encoder") == "org/encoder"
    (tmp_path / "encoder").mkdir()
    assert name_of(str(tmp_path / "encoder")) == "encoder"
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"abc")
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert name_of(str(tmp_path / "encoder")) == f"model.safetensors with sha256 {sha}"


def test_sizes_are_added_once_to_what_a_task_came_to(places: Places, tmp_path: Path) -> None:
    published(tmp_path, "task", "transfer 90 %", "up", "sst2", accuracy=0.8, accuracy_error=0.01)
    published(tmp_path, "up", "upstream 90 %", "ENCODER", "text")
    sizes = {"encoder_bytes": 90, "scale_bytes": 10, "encoder_dense_bytes": 1000, "file_bytes": 5}
    commands = []

    def packing(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps({"sizes": sizes}), "")

    task, upstream = (Stage(name, "run_glue", "ENCODER", "sst2") for name in ("task", "up"))
    assert not add_sizes(task, places, tmp_path, packing), "its model does not lie here"
    for name in ("task", "up"):
        places.output(name).mkdir(parents=True)
        places.ending(name).write_text("{}")
    assert [add_sizes(stage, places, tmp_path, packing) for stage in (task, upstream, task)] == [
        True,
        False,
        False,
    ]
    content = json.loads((tmp_path / "task.json").read_text())
    (row,) = content["rows"]
    assert (row["encoder_bytes"], row["encoder_dense_bytes"], row["accuracy"]) == (100, 1000, 0.8)
    assert content["columns"] == list(row)
    ((_, _, name, model, _, *options),) = commands
    assert (name, model, options) == ("pack", str(places.output("task")), ["--format", "packed", "--json"])
