"""Texts from elsewhere in tables of the terminal and on the page: shown as they are, without effect."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hf_sparse import Recipe
from hf_sparse.planning.plan import make_plan
from hf_sparse.planning.plan_table import print_plan
from hf_sparse.report.latency import print_latency
from hf_sparse.report.page.write import write_page
from hf_sparse.runs.comparison import trace_runs
from hf_sparse.runs.latency import LatencyReport, LatencyRow
from hf_sparse.runs.measured_run import gather_runs
from tests.report.page.markup import Markup
from tests.report.runs import write_run

NASTY = "[red]<script>alert(1)</script>[/] [/nothing] {{ 7 * 7 }} &lt; </td><h2>x"


def console() -> Console:
    return Console(file=StringIO(), width=400)


def test_remarks_of_a_plan_are_printed_as_they_are() -> None:
    plan, shown = make_plan(Recipe.preset("prune_ofa_90"), 100), console()
    print_plan(replace(plan, remarks=("uses [red]x[/red] and [/y]",)), shown)
    assert "uses [red]x[/red] and [/y]" in shown.file.getvalue()


def test_names_of_runtimes_are_printed_as_they_are() -> None:
    rows = (LatencyRow.measured("[red]mine[/red] [/y]", False, (0.002,), 1, 0.0),)
    machine = {"processor": "[/x]", "cores": 1, "kernels": None, "versions": {}}
    shown = console()
    print_latency(
        LatencyReport("[b]m", "Bert", 1, 8, 1, machine, rows[0].name, 1.0, rows, {"[i]": "[/i]"}), shown
    )
    for text in ("[red]mine[/red] [/y]", "[/x]", "[b]m", "[i]"):
        assert text in shown.file.getvalue()


def test_a_page_has_the_elements_it_has_with_harmless_texts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shapes = []
    for text in ("harmless", NASTY):
        run = write_run(
            tmp_path / str(len(shapes)) / "run",
            architecture=text,
            facts={"dataset": text, "task": text},
            arguments={"learning_rate": 1e-3, "optim": text},
            hardware={"processor": text},
            versions={text: text},
        )
        out = tmp_path / f"out{len(shapes)}"
        write_page(trace_runs(gather_runs([run])), out)
        page = Markup((out / "report.html").read_text(encoding="utf-8"))
        assert page.unbalanced == [] and page.open == []
        shapes.append([tag for tag, _ in page.elements if tag not in ("wbr", "use", "path", "g", "defs")])
    assert shapes[0] == shapes[1]
    assert "<script>alert(1)</script>" in page.text and "49" not in page.text
