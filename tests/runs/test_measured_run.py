"""Runs are found, named and measured."""

import json
from pathlib import Path

import pytest

from hf_sparse.runs.measured_run import gather_runs, lines_of, names_of, teachers_of
from hf_sparse.runs.run import read_run
from tests.report.runs import latency_of, measured, write_run
from tests.support.tiny import bert


def test_a_run_is_measured_in_its_weights_and_files(tmp_path: Path) -> None:
    run = measured(write_run(tmp_path / "run", milliseconds=2.5))
    assert run.sparsity == 0.5 and not run.dense and run.pattern in ("row", "16x16")
    assert run.files == {"model": (tmp_path / "run" / "model.safetensors").stat().st_size}
    assert run.score == 0.75 and f"{run.yardstick}" == "accuracy on 40 examples of letters"
    assert list(run.latencies.values()) == [2.5]


def test_the_smallest_form_is_found_among_those_in_the_run(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run")
    bert(num_hidden_layers=1, vocab_size=8).save_pretrained(home / "packed")
    config = home / "packed" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {}}))
    bert(num_hidden_layers=1, vocab_size=8).save_pretrained(home / "checkpoint-5")
    run = measured(home)
    assert set(run.files) == {"model", "packed"} and run.smallest[0] == "packed"


def test_a_run_whose_weights_were_deleted_keeps_its_log(tmp_path: Path) -> None:
    run = measured(write_run(tmp_path / "run", sparsity=None))
    assert run.weights == () and run.sparsity is None and run.smallest is None and run.run.log


@pytest.mark.parametrize(
    ("scores", "metric"),
    [
        ({"loss": 1.0, "accuracy": 0.5, "f1": 0.4}, "accuracy"),
        ({"loss": 1.0}, "loss"),
        ({"HasAns_exact": 1.0, "best_exact": 2.0, "exact": 3.0, "f1": 4.0}, "f1"),
        ({"exact_match": 3.0, "f1": 4.0}, "f1"),
    ],
)
def test_the_first_score_that_says_all_is_compared(tmp_path: Path, scores: dict, metric: str) -> None:
    home = write_run(tmp_path / "run", sparsity=None)
    results = {f"eval_{name}": score for name, score in scores.items()}
    (home / "eval_results.json").write_text(json.dumps(results))
    assert measured(home).yardstick.metric == metric


def test_an_interrupted_run_is_its_last_checkpoint(tmp_path: Path) -> None:
    for step in (5, 10):
        write_run(tmp_path / "run" / f"checkpoint-{step}", sparsity=None)
    runs = gather_runs([tmp_path / "run"])
    assert names_of(runs) == ["run/checkpoint-10"]


def test_a_log_without_a_model_is_a_run(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", sparsity=None)
    (home / "config.json").unlink()
    (run,) = gather_runs([home])
    assert len(run.log) == 2


def test_every_run_is_gathered_once(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / "home" / name, sparsity=None) for name in "ab")
    runs = gather_runs([second, tmp_path / "home", first])
    assert [run.name for run in runs] == ["b", "a"]


def test_equal_names_are_told_apart_by_more_of_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "other"]
    assert names_of(gather_runs([write_run(path, sparsity=None) for path in paths])) == [
        "x/run",
        "y/run",
        "other",
    ]


def test_lines_end_in_runs_that_no_other_starts_from(tmp_path: Path) -> None:
    dense = write_run(tmp_path / "dense", sparsity=None)
    task = write_run(tmp_path / "task", sparsity=None, base_model=str(dense), teacher=str(dense))
    other = write_run(tmp_path / "other", sparsity=None)
    lines = lines_of([read_run(path) for path in (dense, task, other)])
    assert [[run.name for run in line] for line in lines] == [["dense", "task"], ["other"]]
    assert [run.name for run in teachers_of(lines[0])] == ["dense"]


def row_of(**changes: object) -> dict:
    return latency_of(1.0)["rows"][0] | changes


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": [1]},
        {"rows": [row_of(median_ms="fast")]},
        {"rows": [row_of(median_ms=float("nan"))]},
        {"rows": [row_of(median_ms=-1.5)]},
        {"rows": [row_of(ours="yes")]},
        {"machine": []},
        {"batch": [1]},
    ],
)
def test_what_is_no_latency_is_refused(tmp_path: Path, damage: dict) -> None:
    home = write_run(tmp_path / "run", sparsity=None, milliseconds=1.0)
    (home / "latency.json").write_text(json.dumps(latency_of(1.0) | damage))
    with pytest.raises(ValueError, match="latency.json is not what hf-sparse benchmark --json writes"):
        measured(home).latencies  # noqa: B018, a property that checks


def test_times_of_other_runtimes_are_no_latency(tmp_path: Path) -> None:
    rows = [row for row in latency_of(1.0)["rows"] if not row["ours"]]
    home = write_run(tmp_path / "run", sparsity=None, milliseconds=1.0, latency={"rows": rows})
    assert rows and measured(home).latencies == {}


def test_a_fact_that_is_a_list_is_a_part_of_the_yardstick(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", sparsity=None, facts={"dataset": ["/scratch/a.json", "b"]})
    assert f"{measured(home).yardstick}" == "accuracy on 40 examples of a.json, b"
