"""`hf-sparse report` writes a page and shows what a run logged."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import lines, refused, run
from tests.report.runs import LOG, write_run


def test_a_run_gets_a_page_and_its_log_is_shown(tmp_path: Path, narrow: None) -> None:
    home = write_run(tmp_path / "run")
    printed = lines("report", home)
    assert (home / "report" / "report.html").is_file() and (home / "report" / "loss.png").is_file()
    assert ["10", "0.5", "0.7", "5.0e-04", "50.0%"] in [line.split() for line in printed]
    assert printed[-1] == f"{home / 'report' / 'report.html'}, with 4 pictures beside it"
    assert max(map(len, printed[:-1])) <= 80


def test_a_page_is_written_again_over_the_last_one(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", sparsity=None)
    assert lines("report", home) == lines("report", home)


def test_the_page_of_several_runs_lies_beside_them(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, sparsity=None) for name in "ab"]
    lines("report", *runs)
    assert (tmp_path / "report" / "1-a-loss.png").is_file()


def test_runs_of_several_places_need_one_for_their_page(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / "run", sparsity=None) for name in "ab"]
    assert "name a place for their page with --output-dir DIR" in refused("report", *runs)
    lines("report", *runs, "--output-dir", tmp_path / "page")
    assert (tmp_path / "page" / "1-a-run-loss.png").is_file()


def test_json_holds_what_is_on_the_page(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", sparsity=None, log=[*LOG, {"step": 11, "loss": float("nan")}])
    (line,) = lines("report", home, "--json")
    found = json.loads(line)
    assert found["page"] == f"{home / 'report' / 'report.html'}" and "report.html" in found["files"]
    assert found["runs"][0]["score"] == 0.75 and found["logs"]["run"][-1] == {"step": 11, "loss": None}


def test_an_interrupted_run_and_one_without_a_log_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "run" / "checkpoint-10", sparsity=None)
    printed = lines("report", tmp_path / "run")
    assert any(line.split()[:2] == ["10", "0.5"] for line in printed)
    assert "0 pictures" in lines("report", write_run(tmp_path / "silent", sparsity=None, log=[]))[-1]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "name the output directory of a run" in refused("report", tmp_path)


def test_a_place_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", sparsity=None)
    assert "holds something else" in refused("report", home, "--output-dir", home)
    assert (home / "config.json").is_file()


def test_the_page_is_opened_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    home = write_run(tmp_path / "run", sparsity=None, log=[])
    assert run("report", home).exit_code == 0 and opened == []
    assert run("report", home, "--open").exit_code == 0
    assert opened == [(home / "report" / "report.html").as_uri()]
