"""Latencies as a value: what follows from them, and their JSON, there and back."""

import json
from dataclasses import replace

import pytest

from hf_sparse.runs.latency import LatencyReport, LatencyRow, machine
from tests.support.latencies import EAGER, OTHER, OURS, REPORT


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
    report = replace(
        REPORT,
        rows=(
            EAGER,
            LatencyRow.measured("hf_sparse fuse", True, (milliseconds / 1000,), 12_000_000, 0.01),
            OTHER,
        ),
    )
    sentence = sentence.format(rival="OpenVINO int8 with 40.00 ms")
    assert report.verdict == sentence
    found = report.to_dict()
    assert found["verdict"] == sentence and found["gain"] == (milliseconds < 39)
    assert found["speedup"] == pytest.approx(40 / milliseconds)


def test_the_best_of_this_runtime_counts() -> None:
    slower = LatencyRow.measured("hf_sparse optimize", True, (0.1,), 12_000_000, 0.01)
    report = replace(REPORT, rows=(slower, EAGER, OURS, OTHER))
    assert report.best is OURS and report.rival is OTHER
    assert report.to_dict()["rows"][-1]["times_ours"] == pytest.approx(5)


def test_numbers_are_json() -> None:
    found = REPORT.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [row["name"] for row in found["rows"]] == ["hf_sparse fuse", "OpenVINO int8", "PyTorch float32"]
    first, second, _ = found["rows"]
    assert first["ms"] == pytest.approx([20, 10, 30]) and first["median_ms"] == pytest.approx(20)
    assert first["p95_ms"] == pytest.approx(29) and first["sequences_per_second"] == pytest.approx(200)
    assert (first["weight_bytes"], first["largest_difference"]) == (12_000_000, 0.01)
    assert second["largest_difference"] is None and second["note"] == "In its own way."
    assert found["missing"] == REPORT.missing and found["machine"] == REPORT.machine
    infinite = replace(REPORT, largest=float("inf"))
    assert infinite.to_dict()["largest_output"] is None


def test_the_machine_is_named() -> None:
    found = machine("avx2")
    assert found["kernels"] == "avx2" and found["processor"] and found["cores"] >= 1
    assert {"torch", "onnxruntime", "openvino"} <= found["versions"].keys()


def test_what_was_written_is_read_as_it_was() -> None:
    written = json.loads(json.dumps(REPORT.to_dict()))
    again = LatencyReport.from_dict(written, "latency.json")
    assert again == replace(REPORT, rows=tuple(REPORT.ranked), file="latency.json")
    assert again.to_dict() == written
    endless = replace(REPORT, largest=float("inf"))
    assert LatencyReport.from_dict(endless.to_dict()).largest == float("inf")


def test_a_summary_without_single_calls_is_read() -> None:
    written = REPORT.to_dict()
    for row in written["rows"]:
        del row["ms"]
    again = LatencyReport.from_dict(written)
    assert all(row.ms == () for row in again.rows)
    assert [row.median_ms for row in again.rows] == pytest.approx([20, 40, 80])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": None}, "'rows' is None"),
        ({"rows": ["x"]}, "rows is 'x'"),
        ({"batch": 0}, "'batch' is 0, and must be above 0"),
        ({"threads": True}, "'threads' is True"),
        ({"machine": {"processor": "Some CPU"}}, "machine.'cores' is missing"),
        ({"missing": {"OpenVINO": 3}}, "missing.'OpenVINO' is 3"),
    ],
)
def test_damage_is_named(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LatencyReport.from_dict(REPORT.to_dict() | change)
