"""What a run has logged: found, in a table, as a picture."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hf_sparse.report.history import history_figure, print_history, read_log

LOG = [
    {"step": 10, "loss": 0.7, "learning_rate": 5e-5, "sparsity": 0.0, "groups_gone": 0.2, "epoch": 0.1},
    {"step": 20, "loss": 0.5, "learning_rate": 4e-5, "sparsity": 0.5, "penalty_strength": 1e-4},
    {"step": 20, "eval_loss": 0.6, "eval_runtime": 2.0},
    {"step": 30, "train_runtime": 3.0, "total_flos": 1e9},
]


def write(directory: Path, log: list[dict[str, float]] = LOG) -> Path:
    directory.mkdir(parents=True)
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")
    return directory


def printed(log: list[dict[str, float]]) -> list[list[str]]:
    console = Console(file=StringIO(), width=80)
    print_history(log, console)
    return [line.split() for line in console.file.getvalue().splitlines()]


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


def test_evaluations_are_shown_however_long_the_log() -> None:
    log = [{"step": step, "loss": 1.0} for step in range(1, 401)]
    log[123]["eval_loss"] = 2.0
    assert ["124", "1", "2"] in printed(log)


def test_only_what_was_logged_has_a_column(tmp_path: Path) -> None:
    rows = printed(read_log(write(tmp_path / "run")))
    assert rows[0] == ["step", "loss", "eval", "loss", "rate", "zeros", "gone", "strength"]
    assert ["20", "0.5", "0.6", "4.0e-05", "50.0%", "1.0e-04"] in rows
    assert printed([{"step": 1, "loss": 1.0}])[0] == ["step", "loss"]


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 400])
def test_long_logs_are_thinned_out_but_not_at_their_end(count: int) -> None:
    rows = printed([{"step": step, "loss": 1.0} for step in range(1, count + 1)])[2:]
    assert rows[0][0] == "1" and rows[-1][0] == f"{count}" and len(rows) <= 21
    assert count > 20 or len(rows) == count


def test_every_series_is_drawn_in_its_panel(tmp_path: Path) -> None:
    figure = history_figure(read_log(write(tmp_path / "run")), "run")
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["loss", "%", "penalty\nstrength", "learning\nrate"]
    training, evaluation = figure.axes[0].lines
    assert list(training.get_ydata()) == [0.7, 0.5] and list(evaluation.get_xdata()) == [20]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.0, 50.0]
    assert len(history_figure([{"step": 1, "loss": 1.0}], "run").axes) == 1


def test_a_log_of_nothing_is_not_drawn() -> None:
    for show in (lambda log: history_figure(log, "run"), printed):
        with pytest.raises(ValueError, match="logged nothing that could be shown"):
            show([{"step": 1, "train_runtime": 1.0}])


def test_of_very_many_evaluations_some_are_shown() -> None:
    log = [{"step": step, "loss": 1.0, "eval_loss": 1.0} for step in range(3000)]
    console = Console(file=StringIO(), width=80)
    print_history(log, console)
    assert 50 <= len(console.file.getvalue().splitlines()) <= 80
