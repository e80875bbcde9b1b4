"""What a run has logged is read from the state of its Trainer."""

import json
from pathlib import Path

import pytest

from hf_sparse.runs.history import read_log

LOG = [
    {"step": 10, "loss": 0.7},
    {"step": 20, "loss": 0.5, "learning_rate": 4e-5},
    {"step": 20, "eval_loss": 0.6, "eval_runtime": 2.0},
    {"step": 30, "train_runtime": 3.0, "total_flos": 1e9},
]


def write(directory: Path, log: list[dict[str, float]] = LOG) -> Path:
    directory.mkdir(parents=True)
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")
    return directory


def test_numbers_of_a_step_are_together(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "run"))
    assert [row["step"] for row in log] == [10, 20, 30]
    assert (log[1]["loss"], log[1]["eval_loss"]) == (0.5, 0.6)


def test_the_last_checkpoint_of_a_run_that_was_interrupted_is_read(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-5", [{"step": 5, "loss": 9.0}])
    write(tmp_path / "checkpoint-10", [{"step": 10, "loss": 1.0}])
    assert read_log(tmp_path) == [{"step": 10, "loss": 1.0}]
    assert read_log(tmp_path / "checkpoint-5") == [{"step": 5, "loss": 9.0}]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_where_nothing_was_trained_the_way_out_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="name the output directory of a Trainer"):
        read_log(tmp_path / name)


def test_what_is_further_counts(tmp_path: Path) -> None:
    write(tmp_path / "run", [{"step": 500, "loss": 1.0}])
    write(tmp_path / "run" / "checkpoint-1500", [{"step": 500, "loss": 1.0}, {"step": 1500, "loss": 0.5}])
    assert [row["step"] for row in read_log(tmp_path / "run")] == [500, 1500]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"log_history": [{"loss": 1.0}]}', '{"log_history": 3}']
)
def test_what_is_no_state_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "trainer_state.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="trainer_state.json is not a valid state of a Trainer"):
        read_log(tmp_path)
