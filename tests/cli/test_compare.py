"""`hf-sparse compare` puts runs side by side."""

import json
from pathlib import Path

from tests.cli.commands import lines, refused
from tests.report.runs import write_run


def test_runs_in_a_directory_are_a_table_with_what_differs(tmp_path: Path, narrow: None) -> None:
    write_run(tmp_path / "runs" / "dense", sparsity=0.0, recipe={}, accuracy=0.9, milliseconds=4.0)
    write_run(tmp_path / "runs" / "small", accuracy=0.8, milliseconds=2.0, date="2026-01-02")
    printed = lines("compare", tmp_path / "runs")
    assert max(map(len, printed)) <= 80
    words = [line.split() for line in printed]
    assert ["dense", "0.0%", "-", "0.9000", "0.120", "4"] in words
    assert ["sparsity.schedule.final", "0.5", "small"] in words
    assert not any("learning_rate" in line for line in printed)


def test_json_holds_all_and_nothing_else(tmp_path: Path) -> None:
    (line,) = lines("compare", write_run(tmp_path / "a"), write_run(tmp_path / "b", sparsity=None), "--json")
    found = json.loads(line)
    assert [row["run"] for row in found["runs"]] == ["a", "b"]
    assert [row["sparsity"] for row in found["runs"]] == [0.5, None]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{speed}", milliseconds=speed) for speed in (1.0, 2.0)]
    lines("compare", *runs, "--png", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_nothing_or_of_another_name_is_refused(tmp_path: Path) -> None:
    home = write_run(tmp_path / "a", sparsity=None)
    assert "compare without --png" in refused("compare", home, "--png", tmp_path / "picture.png")
    assert "ends in .png" in refused("compare", home, "--png", tmp_path / "picture.jpg")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "name the output directory of a run" in refused("compare", tmp_path / "nowhere")
