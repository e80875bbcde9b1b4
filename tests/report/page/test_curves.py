"""What a run has logged is drawn, and said in captions."""

from math import nan
from pathlib import Path
from typing import Any

import pytest

from hf_sparse.report.page.canvas import Picture
from hf_sparse.report.page.curves import curves, score_limits, stages_figure
from tests.report.runs import LOG, compared, measured, write_run


def drawn(directory: Path, **parts: Any) -> dict[str, Picture]:
    return {
        picture.name: picture for picture in curves(measured(write_run(directory, sparsity=None, **parts)))
    }


def lines(picture: Picture) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in picture.figure.axes[0].lines}


def test_each_kind_of_number_has_its_figure(tmp_path: Path) -> None:
    found = drawn(tmp_path / "run")
    assert list(found) == ["loss", "zeros", "learning-rate"]
    assert lines(found["loss"]) == {
        "total": [0.9, 0.5],
        "task": [1.0, 0.6],
        "logits": [0.8, 0.4],
        "evaluation": [0.7],
    }
    assert list(found["zeros"].figure.axes[0].lines[0].get_ydata()) == [20.0, 50.0]


def test_captions_say_what_is_seen(tmp_path: Path) -> None:
    found = drawn(tmp_path / "run")
    assert "total = 0.5 task + 0.5 logits, each term drawn without its weight" in found["loss"].caption
    assert found["zeros"].caption == "The share of removed weights: 50.0\u00a0% from step 10 on."
    assert "at most 0.001" in found["learning-rate"].caption


def test_every_axis_has_a_name(tmp_path: Path) -> None:
    for picture in drawn(tmp_path / "run").values():
        axes = picture.figure.axes[-1]
        assert axes.get_xlabel() == "optimizer step" and axes.get_ylabel()


def test_rewinding_is_said_where_the_recipe_asks_for_it(tmp_path: Path) -> None:
    recipe = {"sparsity": {"method": "magnitude", "schedule": {"final": 0.5}, "lr_rewind": True}}
    assert "rewound" in drawn(tmp_path / "run", recipe=recipe)["learning-rate"].caption


def test_groups_and_scores_are_drawn_where_they_were_logged(tmp_path: Path) -> None:
    log = [
        {"step": 1, "loss": 1.0, "penalty": 0.1, "groups_gone": 0.1, "penalty_strength": 1e-4},
        {"step": 2, "loss": 0.9, "penalty": 0.1, "groups_gone": 0.4, "penalty_strength": 1e-3},
        {"step": 1, "eval_accuracy": 0.5},
        {"step": 2, "eval_accuracy": 0.6},
    ]
    found = drawn(tmp_path / "run", log=log)
    assert list(found) == ["loss", "groups", "score"]
    assert "40.0\u00a0% at the end" in found["groups"].caption
    assert list(lines(found["loss"])) == ["total", "penalty"]


def test_a_loss_that_is_no_number_leaves_a_gap_and_is_said(tmp_path: Path) -> None:
    log = [*LOG[:2], {"step": 15, "loss": nan}, {"step": 20, "loss": nan, "eval_loss": nan}]
    caption = drawn(tmp_path / "run", log=log)["loss"].caption
    assert "not finite at 2 logged steps, first at step 15" in caption


@pytest.mark.parametrize("log", [[], [{"step": 1, "loss": nan}], [{"step": 1, "train_runtime": 2.0}]])
def test_where_there_is_nothing_to_draw_there_is_no_figure(tmp_path: Path, log: list) -> None:
    assert drawn(tmp_path / "run", log=log) == {}


def test_long_logs_are_drawn_as_means(tmp_path: Path) -> None:
    log = [{"step": step, "loss": float(step % 2), "learning_rate": 1.0} for step in range(1, 2001)]
    found = drawn(tmp_path / "run", log=log)
    assert set(found["loss"].figure.axes[0].lines[0].get_ydata()) == {0.5}
    assert "means of about 10 logged steps" in found["loss"].caption


def test_losses_far_apart_are_drawn_by_their_logarithms(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": 100.0}, {"step": 2, "loss": 1.0}]
    assert drawn(tmp_path / "run", log=log)["loss"].figure.axes[0].get_yscale() == "log"


def test_an_axis_of_shares_ends_at_one() -> None:
    assert score_limits([0.9, 1.0])[1] == 1 and score_limits([80.0, 90.0])[1] > 90
    assert score_limits([0.5, 0.5])[0] < 0.5


def test_a_share_of_zeros_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    found = drawn(tmp_path / "run", log=[*LOG, {"step": 30, "sparsity": nan, "loss": 1.0}])
    assert "nan" not in found["zeros"].caption


def test_stages_stand_beside_each_other_each_as_wide_as_the_others(tmp_path: Path) -> None:
    short = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    runs = compared(
        write_run(tmp_path / "long", sparsity=None),
        write_run(tmp_path / "silent", sparsity=None, log=[]),
        write_run(tmp_path / "short", sparsity=None, log=short),
    ).runs
    picture = stages_figure(runs, "stages-1", {"long": 1, "silent": 2, "short": 4})
    zeros, loss, rate = picture.figure.axes
    first, second = (line for line in loss.lines if len(line.get_xdata()) and line.get_linestyle() == "-")
    assert list(first.get_xdata()) == [0.5, 1.0] and list(second.get_xdata()) == [1.5, 2.0]
    assert [axes.get_ylabel() for axes in (zeros, loss, rate)] == ["zeros (%)", "loss", "learning rate"]
    assert picture.figure.get_supxlabel() == "1\u00a0long, 4\u00a0short"
    assert picture.title == "Stages up to short"
    assert "long 10 steps; short 2 steps" in picture.caption


def test_one_stage_with_a_log_needs_no_figure_of_stages(tmp_path: Path) -> None:
    runs = compared(
        write_run(tmp_path / "a", sparsity=None), write_run(tmp_path / "b", sparsity=None, log=[])
    ).runs
    assert stages_figure(runs, "stages-1", {"a": 1, "b": 2}) is None


def test_a_stage_that_was_only_evaluated_does_no_harm(tmp_path: Path) -> None:
    log = [{"step": 0, "eval_loss": 1.0}]
    runs = compared(
        write_run(tmp_path / "a", sparsity=None), write_run(tmp_path / "b", sparsity=None, log=log)
    ).runs
    assert stages_figure(runs, "stages-1", {"a": 1, "b": 2}) is not None
