"""Names of runs as they are: no formula, no markup, whatever is in them."""

import os
from pathlib import Path

import matplotlib.text
import pytest

from hf_sparse.report.heatmap import sparsity_figure
from hf_sparse.report.history import demo_figure, history_figure
from hf_sparse.report.page.canvas import Picture as Drawn
from hf_sparse.report.page.canvas import entitle, new_panels, to_svg, write_below
from hf_sparse.report.page.write import write_page
from hf_sparse.report.pictures import write_png
from hf_sparse.runs.comparison import trace_runs
from hf_sparse.runs.measured_run import gather_runs
from tests.report.page.markup import Markup
from tests.report.runs import LOG, measured, write_run

NAMES = {
    "a formula": r"$x_{1$",
    "a formula that is cut": f"{'x' * 37}$y_{{$z" + "w" * 36 + "$v^$",
    "an escaped dollar": r"a\$b_{\$c$d$",
    "markup": "<b>&amp;{{ 1 }}[red]",
    "control characters": "a\x01b\x7f\tc",
    "no text": os.fsdecode(b"\xff\xfe"),
    "a long name": "long" * 60,
}


# No model can be loaded from a directory whose name is no text.
@pytest.mark.parametrize("kind", ["a formula that is cut", "markup", "control characters", "a long name"])
def test_a_run_of_any_name_is_shown(kind: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / NAMES[kind], milliseconds=2.0)
    other = write_run(tmp_path / "other", accuracy=0.5, milliseconds=3.0)
    files = write_page(trace_runs(gather_runs([run, other])), tmp_path / "out")
    page = Markup((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert {"latency.png", "2-other-layers.png"} <= set(files) and len(files) > 8
    assert NAMES[kind] in page.inside("h2")


@pytest.mark.parametrize("name", NAMES.values())
def test_every_picture_draws_it_as_it_is(name: str, tmp_path: Path) -> None:
    run = measured(write_run(tmp_path / "run"))
    drawn, _ = new_panels(name)
    write_below(drawn, name)
    for figure in (
        drawn,
        history_figure(LOG, name),
        sparsity_figure(run.weights, name),
        demo_figure(LOG, {"dense": 0.5}, 0.5, name),
    ):
        write_png(figure, tmp_path / "picture.png")
        assert not any(text.get_parse_math() for text in figure.texts)
    entitle(drawn, name)
    assert "<title>" in to_svg(Drawn("picture", name, name, drawn))


def test_numbers_of_logarithmic_axes_stay_formulas(tmp_path: Path) -> None:
    figure = history_figure([{"step": step, "penalty_strength": 10.0**-step} for step in (1, 5)], "$")
    write_png(figure, tmp_path / "picture.png")
    (axes,) = figure.axes
    labels = [text for text in axes.get_yticklabels() if isinstance(text, matplotlib.text.Text)]
    assert any("mathdefault" in text.get_text() and text.get_parse_math() for text in labels)
