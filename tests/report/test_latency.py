"""Latencies of runtimes as a table and as a picture."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from hf_sparse.report.latency import latency_figure, print_latency
from hf_sparse.runs.latency import LatencyReport, LatencyRow
from tests.support.latencies import EAGER, OTHER, REPORT


def printed(report: LatencyReport) -> list[str]:
    console = Console(file=StringIO(), width=80)
    print_latency(report, console)
    return console.file.getvalue().splitlines()


def test_the_table_ranks_and_tells_what_was_measured_where() -> None:
    lines = printed(REPORT)
    assert lines[0] == "models/small: BertModel, batches of 4 x 128 tokens, 2 threads"
    assert lines[1].startswith("Some CPU, 8 cores, kernels for avx2; hf_sparse ")
    rule = next(index for index, line in enumerate(lines) if line.startswith("───"))
    assert [line.split() for line in lines[rule + 1 : rule + 4]] == [
        ["hf_sparse", "fuse", "20.00", "29.00", "200.0", "12.00", "1.0e-02", "1.00x"],
        ["OpenVINO", "int8", "40.00", "58.00", "100.0", "110.0", "inf", "2.00x"],
        ["PyTorch", "float32", "80.00", "80.00", "50.00", "400.0", "-", "4.00x"],
    ]
    assert "whose outputs go up to 2.5." in " ".join(" ".join(lines).split())
    assert "OpenVINO int8: In its own way." in lines
    assert "Not measured: ONNX Runtime int8: onnxruntime is not installed." in lines
    assert lines[-2:] == [
        "hf_sparse fuse is 2.00 times as fast as the fastest of the others, OpenVINO int8",
        "with 40.00 ms.",
    ]


def test_large_numbers_fit_into_80_columns() -> None:
    slow = LatencyRow.measured("ONNX Runtime float32", False, (123.4567,) * 3, 9_876_543_210, 1.5)
    fast = LatencyRow.measured("hf_sparse optimize", True, (0.0123,) * 3, 12_000_000, 0.01)
    lines = printed(replace(REPORT, rows=(EAGER, OTHER, slow, fast), batch=51_200, model="m"))
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert any("123,457" in line and "9,877" in line and "10,037x" in line for line in lines)


def test_without_this_runtime_the_fastest_is_named() -> None:
    machine_without = {**REPORT.machine, "kernels": None, "cores": 1}
    report = replace(REPORT, rows=(EAGER, OTHER), machine=machine_without, threads=1, length=1)
    lines = printed(report)
    assert lines[0].endswith("batches of 4 x 1 token, 1 thread")
    assert lines[1].startswith("Some CPU, 1 core, no kernels of this runtime; ")
    assert lines[-1] == "This runtime was not measured; the fastest is OpenVINO int8 with 40.00 ms."
    assert any(line.split()[-2:] == ["inf", "-"] for line in lines)
    found = report.to_dict()
    assert found["speedup"] is None and found["gain"] is False
    assert found["rows"][0]["times_ours"] is None


def test_names_are_printed_as_they_are() -> None:
    odd = replace(REPORT, model="[bold]m[/bold]", missing={"x": "[red] no"})
    assert printed(odd)[0].startswith("[bold]m[/bold]: ")
    assert "Not measured: x: [red] no." in printed(odd)


def test_the_picture_has_a_bar_for_each_the_fastest_first() -> None:
    figure = latency_figure(REPORT)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([20, 40, 80])
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "hf_sparse fuse",
        "OpenVINO int8",
        "PyTorch float32",
    ]
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors[0] != colors[1] == colors[2]
    (lines,) = axes.collections
    ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
    assert ends == [pytest.approx(pair) for pair in ([20, 29], [40, 58], [80, 80])]
    assert axes.yaxis_inverted() and axes.get_xlim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["20.00 ms", "40.00 ms", "80.00 ms"]
    assert figure.get_suptitle() == "small: batches of 4 x 128 tokens, 2 threads"
    assert "Some CPU" in axes.get_title(loc="left")
