"""The picture of a demo."""

from pathlib import Path

from hf_sparse.report.plots import demo_figure, plot_demo

LOG = [
    {"step": 1, "loss": 3.0, "sparsity": 0.0, "learning_rate": 0.001},
    {"step": 2, "loss": 2.0, "sparsity": 0.9, "learning_rate": 0.0005},
    {"step": 2, "eval_loss": 2.0},
]
ACCURACIES = {"dense": 0.75, "pruned once": 0.5}


def test_sparsity_and_learning_rate_are_drawn_against_the_step() -> None:
    run, bars, rate = demo_figure(LOG, ACCURACIES, 0.25, "title").axes
    assert run.lines[0].get_xydata().tolist() == [[1, 0], [2, 90]]
    assert rate.lines[0].get_xydata().tolist() == [[1, 1], [2, 0.5]]
    assert [bar.get_height() for bar in bars.patches] == [75, 50]
    assert bars.lines[0].get_ydata()[0] == 25


def test_every_axis_says_what_it_measures() -> None:
    for axes in demo_figure(LOG, ACCURACIES, 0.25, "title").axes:
        assert axes.get_ylabel()


def test_it_is_written_as_png(tmp_path: Path) -> None:
    plot_demo(LOG, ACCURACIES, 0.25, "title", tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
