"""Figures say what they were measured on."""

import json
from pathlib import Path

import pytest

from benchmarks import measuring
from benchmarks.readme import read_results, section

ROWS = [{"stage": "dense", "accuracy": 0.5}]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "an accelerator")
    monkeypatch.setattr("sys.argv", ["measure.py", "--seed", "1"])
    return measuring.write_results("step", "A step", ROWS, {"seed": 1}, ["stage", "accuracy"])


def test_a_result_file_is_what_readme_reads(written: Path) -> None:
    assert written.name == "step.json"
    page = section(read_results(written.parent)["step"])
    assert page.startswith("| stage | accuracy |\n| --- | --- |\n| dense | 0.5 |\n")
    assert "seed 1" in page and "Measured by `python benchmarks/measure.py --seed 1`;" in page


def test_hardware_names_threads_and_accelerator(written: Path) -> None:
    hardware = json.loads(written.read_text())["hardware"]
    assert hardware["torch_threads"] == 7 and hardware["accelerator"] == "an accelerator"
    assert hardware["processor"]
