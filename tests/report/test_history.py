"""What a run has logged: in a table, as a picture."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hf_sparse.report.history import demo_figure, history_figure, plot_demo, print_history

LOG = [
    {"step": 10, "loss": 0.7, "learning_rate": 5e-5, "sparsity": 0.0, "groups_gone": 0.2, "epoch": 0.1},
    {
        "step": 20,
        "loss": 0.5,
        "learning_rate": 4e-5,
        "sparsity": 0.5,
        "penalty_strength": 1e-4,
        "eval_loss": 0.6,
    },
    {"step": 30, "train_runtime": 3.0, "total_flos": 1e9},
]

PRUNING = [
    {"step": 1, "loss": 3.0, "sparsity": 0.0, "learning_rate": 0.001},
    {"step": 2, "loss": 2.0, "sparsity": 0.9, "learning_rate": 0.0005},
    {"step": 2, "eval_loss": 2.0},
]
ACCURACIES = {"dense": 0.75, "pruned once": 0.5}


def printed(log: list[dict[str, float]]) -> list[list[str]]:
    console = Console(file=StringIO(), width=80)
    print_history(log, console)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_evaluations_are_shown_however_long_the_log() -> None:
    log = [{"step": step, "loss": 1.0} for step in range(1, 401)]
    log[123]["eval_loss"] = 2.0
    assert ["124", "1", "2"] in printed(log)


def test_only_what_was_logged_has_a_column() -> None:
    rows = printed(LOG)
    assert rows[0] == ["step", "loss", "eval", "loss", "rate", "zeros", "gone", "strength"]
    assert ["20", "0.5", "0.6", "4.0e-05", "50.0%", "1.0e-04"] in rows
    assert printed([{"step": 1, "loss": 1.0}])[0] == ["step", "loss"]


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 400])
def test_long_logs_are_thinned_out_but_not_at_their_end(count: int) -> None:
    rows = printed([{"step": step, "loss": 1.0} for step in range(1, count + 1)])[2:]
    assert rows[0][0] == "1" and rows[-1][0] == f"{count}" and len(rows) <= 21
    assert count > 20 or len(rows) == count


def test_every_series_is_drawn_in_its_panel() -> None:
    figure = history_figure(LOG, "run")
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["loss", "%", "penalty\nstrength", "learning\nrate"]
    training, evaluation = figure.axes[0].lines
    assert list(training.get_ydata()) == [0.7, 0.5] and list(evaluation.get_xdata()) == [20]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.0, 50.0]
    assert len(history_figure([{"step": 1, "loss": 1.0}], "run").axes) == 1


def test_a_log_of_nothing_is_not_drawn() -> None:
    for show in (lambda log: history_figure(log, "run"), printed):
        with pytest.raises(ValueError, match="logged nothing that can be shown"):
            show([{"step": 1, "train_runtime": 1.0}])


def test_of_very_many_evaluations_some_are_shown() -> None:
    log = [{"step": step, "loss": 1.0, "eval_loss": 1.0} for step in range(3000)]
    console = Console(file=StringIO(), width=80)
    print_history(log, console)
    assert 50 <= len(console.file.getvalue().splitlines()) <= 80


def test_sparsity_and_learning_rate_of_the_demo_are_drawn_against_the_step() -> None:
    run, bars, rate = demo_figure(PRUNING, ACCURACIES, 0.25, "title").axes
    assert run.lines[0].get_xydata().tolist() == [[1, 0], [2, 90]]
    assert rate.lines[0].get_xydata().tolist() == [[1, 1], [2, 0.5]]
    assert [bar.get_height() for bar in bars.patches] == [75, 50]
    assert bars.lines[0].get_ydata()[0] == 25


def test_every_axis_of_the_demo_says_what_it_measures() -> None:
    for axes in demo_figure(PRUNING, ACCURACIES, 0.25, "title").axes:
        assert axes.get_ylabel()


def test_the_demo_is_written_as_png(tmp_path: Path) -> None:
    plot_demo(PRUNING, ACCURACIES, 0.25, "title", tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
