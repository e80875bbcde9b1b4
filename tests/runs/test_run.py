"""What the files of a run say of it."""

import json
import os
from pathlib import Path

import pytest

from hf_sparse.runs.results import scores_in
from hf_sparse.runs.run import find_runs, is_outdated, origin_of, pipeline_of, read_run


def made(directory: Path, record: dict | None = None, **files: object) -> Path:
    """Write the files of a run; the names of others are given with an underscore for the dot."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    if record is not None:
        whole = {"format_version": 1, "recipe": {}, "step": 4, "base_model": None, "teacher": None} | record
        (directory / "hf_sparse_run.json").write_text(json.dumps(whole))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def state(*lines: dict) -> dict:
    return {"log_history": list(lines)}


def test_scores_are_those_of_the_results_file_without_its_clock(tmp_path: Path) -> None:
    results = {
        "eval_accuracy": 0.75,
        "eval_loss": 0.5,
        "eval_runtime": 3.0,
        "eval_samples": 8,
        "sparsity": 0.9,
    }
    run = read_run(made(tmp_path / "run", eval_results=results))
    assert run.scores == {"accuracy": 0.75, "loss": 0.5} and run.samples == 8
    assert run.scores_file == "eval_results.json" and run.record is None and run.name == "run"


def test_without_a_results_file_the_evaluation_after_the_last_step_counts(tmp_path: Path) -> None:
    log = state({"step": 2, "eval_accuracy": 0.25}, {"step": 4, "eval_accuracy": 0.5})
    assert read_run(made(tmp_path / "a", {}, trainer_state=log)).scores == {"accuracy": 0.5}
    early = state({"step": 2, "eval_accuracy": 0.25}, {"step": 4, "loss": 1.0})
    run = read_run(made(tmp_path / "b", {}, trainer_state=early))
    assert run.scores == {} and run.scores_file is None and len(run.log) == 2


@pytest.mark.parametrize("place", ["", "checkpoint-4"])
def test_a_log_has_no_score_of_a_model_that_may_be_the_best_one(tmp_path: Path, place: str) -> None:
    run = made(tmp_path / "run", {})
    (run / place).mkdir(exist_ok=True)
    for best, scores in ((2, {}), (4, {"accuracy": 0.5}), (None, {"accuracy": 0.5})):
        log = state({"step": 2, "eval_accuracy": 0.75}, {"step": 4, "eval_accuracy": 0.5})
        kept = log | {"global_step": 4, "best_global_step": best}
        (run / place / "trainer_state.json").write_text(json.dumps(kept))
        assert read_run(run).scores == scores
    (run / "eval_results.json").write_text('{"eval_accuracy": 0.75}')
    assert read_run(run).scores == {"accuracy": 0.75}


def test_a_pipeline_begins_with_the_first_run_it_can_find(tmp_path: Path) -> None:
    made(tmp_path / "pruned", {"base_model": "bert-base-uncased"})
    made(tmp_path / "task", {"base_model": str(tmp_path / "pruned"), "teacher": str(tmp_path / "dense")})
    last = made(tmp_path / "int8", {"base_model": "/no/longer/there/task"})
    assert [run.name for run in pipeline_of(read_run(last))] == ["pruned", "task", "int8"]
    assert origin_of(read_run(tmp_path / "task"), "teacher") is None


def test_a_run_that_names_itself_as_its_origin_is_no_endless_pipeline(tmp_path: Path) -> None:
    run = read_run(made(tmp_path / "run", {"base_model": str(tmp_path / "run")}))
    assert pipeline_of(run) == [run]


def test_what_is_named_as_on_the_hub_is_no_directory_beside_the_run(tmp_path: Path) -> None:
    made(tmp_path / "bert-tiny")
    run = made(tmp_path / "run", {"base_model": "bert-tiny", "teacher": "somebody/bert-tiny"})
    assert origin_of(read_run(run), "base_model") is None and origin_of(read_run(run), "teacher") is None
    public = made(tmp_path / "public", {"teacher": "./bert-tiny"})
    assert origin_of(read_run(public), "teacher").name == "bert-tiny"


def test_no_run_is_its_own_origin(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {"base_model": str(tmp_path / "run"), "teacher": "/no/longer/there/run"})
    assert origin_of(read_run(run), "base_model") is None and origin_of(read_run(run), "teacher") is None


def test_a_file_that_is_older_than_the_training_is_outdated(tmp_path: Path) -> None:
    run = made(tmp_path / "run", eval_results={})
    file = run / "eval_results.json"
    os.utime(file, (1767225600, 1767225600))
    assert is_outdated(file, {"date": "2026-01-01T00:00:01+00:00"})
    assert not is_outdated(file, {"date": "2026-01-01T00:00:00+00:00"})
    assert not is_outdated(file, {}) and not is_outdated(file, None)


def test_runs_in_a_directory_come_in_the_order_they_were_made(tmp_path: Path) -> None:
    made(tmp_path / "home" / "a", {"date": "2026-02-01"})
    made(tmp_path / "home" / "b", {"date": "2026-01-01"})
    assert [run.name for run in find_runs(tmp_path / "home")] == ["b", "a"]
    assert [run.name for run in find_runs(tmp_path / "home" / "a")] == ["a"]


def test_latencies_are_read(tmp_path: Path) -> None:
    run = read_run(made(tmp_path / "run", latency={"batch": 1}, latency_8={"batch": 8}))
    assert [measured["batch"] for measured in run.latencies] == [1, 8]
    assert run.latency_files == ("latency.json", "latency_8.json")


@pytest.mark.parametrize("place", ["none", "empty"])
def test_a_directory_without_a_model_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="name the output directory of a run"):
        read_run(tmp_path / place)
    with pytest.raises(ValueError, match="nor does a directory in it"):
        find_runs(tmp_path / place)


def test_a_damaged_results_file_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "eval_results.json").write_text("{")
    with pytest.raises(
        ValueError, match="eval_results.json is not a valid measurement .*; measure again, or delete"
    ):
        read_run(run)


def test_among_runs_one_that_was_interrupted_is_its_last_checkpoint(tmp_path: Path) -> None:
    made(tmp_path / "home" / "done", {"date": "2026-01-01"})
    for step in (4, 8):
        made(tmp_path / "home" / "broken_off" / f"checkpoint-{step}", {"date": "2026-02-01"})
    (tmp_path / "home" / "notes").mkdir()
    assert [run.name for run in find_runs(tmp_path / "home")] == ["done", "checkpoint-8"]
    assert [run.name for run in find_runs(tmp_path / "home" / "broken_off")] == ["checkpoint-8"]


def test_the_score_of_masked_language_modeling_has_no_prefix() -> None:
    results = {"eval_loss": 2.0, "perplexity": 7.4, "eval_samples": 8, "sparsity": 0.9}
    assert scores_in(results) == ({"loss": 2.0, "perplexity": 7.4}, 8)
