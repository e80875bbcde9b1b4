"""Measured runtimes as a table, as numbers, as a picture."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from hf_sparse.environment import versions
from hf_sparse.report.latency import (
    LatencyReport,
    LatencyRow,
    latency_as_dict,
    latency_figure,
    machine,
    print_latency,
    verdict,
)

OURS = LatencyRow("hf_sparse fuse", True, (0.02, 0.01, 0.03), 12_000_000, 0.01)
EAGER = LatencyRow("PyTorch float32", False, (0.08, 0.08, 0.08), 400_000_000, 0.0)
OTHER = LatencyRow("OpenVINO int8", False, (0.04, 0.04, 0.06), 110_000_000, float("inf"), "In its own way.")
REPORT = LatencyReport(
    "models/small",
    "BertModel",
    4,
    128,
    2,
    {"processor": "Some CPU", "cores": 8, "system": "Linux", "kernels": "avx2", "versions": versions()},
    "PyTorch float32",
    2.5,
    (EAGER, OURS, OTHER),
    {"ONNX Runtime int8": "onnxruntime is not installed"},
)


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
    slow = LatencyRow("ONNX Runtime float32", False, (123.4567,) * 3, 9_876_543_210, 1.5)
    fast = replace(OURS, name="hf_sparse optimize", seconds=(0.0123,) * 3)
    lines = printed(replace(REPORT, rows=(EAGER, OTHER, slow, fast), batch=51_200, model="m"))
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert any("123,457" in line and "9,877" in line and "10,037x" in line for line in lines)


@pytest.mark.parametrize(
    ("milliseconds", "sentence"),
    [
        (20, "hf_sparse fuse is 2.00 times as fast as the fastest of the others, {rival}."),
        (38, "hf_sparse fuse is 1.05 times as fast as the fastest of the others, {rival}."),
        (39, "No gain here: of the others the fastest is {rival}, and hf_sparse fuse takes 39.00 ms."),
        (200, "No gain here: of the others the fastest is {rival}, and hf_sparse fuse takes 200.0 ms."),
    ],
)
def test_where_nothing_is_gained_that_is_said(milliseconds: float, sentence: str) -> None:
    report = replace(REPORT, rows=(EAGER, replace(OURS, seconds=(milliseconds / 1000,)), OTHER))
    sentence = sentence.format(rival="OpenVINO int8 with 40.00 ms")
    assert verdict(report) == sentence
    found = latency_as_dict(report)
    assert found["verdict"] == sentence and found["gain"] == (milliseconds < 39)
    assert found["speedup"] == pytest.approx(40 / milliseconds)


def test_the_best_of_this_runtime_counts() -> None:
    slower = replace(OURS, name="hf_sparse optimize", seconds=(0.1,))
    report = replace(REPORT, rows=(slower, EAGER, OURS, OTHER))
    assert report.best is OURS and report.rival is OTHER
    assert latency_as_dict(report)["rows"][-1]["times_ours"] == pytest.approx(5)


def test_without_this_runtime_the_fastest_is_named() -> None:
    machine_without = {**REPORT.machine, "kernels": None, "cores": 1}
    report = replace(REPORT, rows=(EAGER, OTHER), machine=machine_without, threads=1, length=1)
    lines = printed(report)
    assert lines[0].endswith("batches of 4 x 1 token, 1 thread")
    assert lines[1].startswith("Some CPU, 1 core, no kernels of this runtime; ")
    assert lines[-1] == "This runtime was not measured; the fastest is OpenVINO int8 with 40.00 ms."
    assert any(line.split()[-2:] == ["inf", "-"] for line in lines)
    found = latency_as_dict(report)
    assert found["speedup"] is None and found["gain"] is False
    assert found["rows"][0]["times_ours"] is None


def test_names_are_printed_as_they_are() -> None:
    odd = replace(REPORT, model="[bold]m[/bold]", missing={"x": "[red] no"})
    assert printed(odd)[0].startswith("[bold]m[/bold]: ")
    assert "Not measured: x: [red] no." in printed(odd)


def test_numbers_are_json() -> None:
    found = latency_as_dict(REPORT)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [row["name"] for row in found["rows"]] == ["hf_sparse fuse", "OpenVINO int8", "PyTorch float32"]
    first, second, _ = found["rows"]
    assert first["ms"] == pytest.approx([20, 10, 30]) and first["median_ms"] == pytest.approx(20)
    assert first["p95_ms"] == pytest.approx(29) and first["sequences_per_second"] == pytest.approx(200)
    assert (first["weight_bytes"], first["largest_difference"]) == (12_000_000, 0.01)
    assert second["largest_difference"] is None and second["note"] == "In its own way."
    assert found["missing"] == REPORT.missing and found["machine"] == REPORT.machine
    infinite = replace(REPORT, largest=float("inf"))
    assert latency_as_dict(infinite)["largest_output"] is None


def test_the_picture_has_a_bar_for_each_the_fastest_first() -> None:
    figure = latency_figure(REPORT)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([20, 40, 80])
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "hf_sparse fuse",
        "OpenVINO int8",
        "PyTorch float32",
    ]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] != colours[1] == colours[2]
    (lines,) = axes.collections
    ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
    assert ends == [pytest.approx(pair) for pair in ([20, 29], [40, 58], [80, 80])]
    assert axes.yaxis_inverted() and axes.get_xlim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["20.00 ms", "40.00 ms", "80.00 ms"]
    assert figure.get_suptitle() == "small: batches of 4 x 128 tokens, 2 threads"
    assert "Some CPU" in axes.get_title(loc="left")


def test_the_machine_is_named() -> None:
    found = machine("avx2")
    assert found["kernels"] == "avx2" and found["processor"] and found["cores"] >= 1
    assert {"torch", "onnxruntime", "openvino"} <= found["versions"].keys()
