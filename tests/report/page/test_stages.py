"""All stages of a pipeline in one figure."""

from pathlib import Path

from hf_sparse.report.page.stages import stages_figure
from tests.report.runs import compared, write_run


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
