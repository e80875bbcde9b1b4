"""The measured tables of README and docs/ are those of the committed results."""

import json
from pathlib import Path

import pytest

from benchmarks.readme import RESULTS, WHOLE, cell, fill, pages, read_results, require_places, section

STEP = {
    "name": "step",
    "columns": ["trainer", "ms a step", "ratio"],
    "rows": [{"trainer": "plain", "ms a step": 40.0, "ratio": 1}, {"trainer": "sparse", "ms a step": 41.236}],
    "hardware": "2 cores",
    "versions": {"torch": "2.13.0"},
    "settings": {},
    "command": "python benchmarks/step.py",
    "date": "2026-11-21",
}
PAGE = "Before.\n<!-- results:step -->\nold\n<!-- /results -->\nAfter.\n"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_page_holds_what_its_results_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text, read_results(RESULTS), pages()[page]) == text


def test_the_page_of_results_shows_every_result_whole() -> None:
    require_places(WHOLE.read_text(encoding="utf-8"), read_results(RESULTS))


def test_a_result_is_a_table_with_its_origin() -> None:
    assert section(STEP) == (
        "| trainer | ms a step | ratio |\n"
        "| --- | --- | --- |\n"
        "| plain | 40 | 1 |\n"
        "| sparse | 41.24 | - |\n"
        "\n"
        "2 cores; torch 2.13.0; 2026-11-21. Measured by `python benchmarks/step.py`; "
        "details in [step.json](benchmarks/results/step.json).\n"
    )


def test_a_table_replaces_what_stood_in_its_place() -> None:
    page = fill(PAGE, {"step": STEP})
    assert page.startswith("Before.\n<!-- results:step -->\n| trainer |")
    assert page.endswith("step.json).\n<!-- /results -->\nAfter.\n")
    assert "old" not in page


def test_filling_twice_changes_nothing() -> None:
    page = fill(PAGE, {"step": STEP})
    assert fill(page, {"step": STEP}) == page


def test_a_place_without_results_says_so() -> None:
    assert fill(PAGE, {}) == "Before.\n<!-- results:step -->\nNot measured yet.\n<!-- /results -->\nAfter.\n"


def test_a_result_without_a_place_is_refused() -> None:
    for page in ("no place", PAGE.replace("results:step", "results:step | ratio")):
        with pytest.raises(ValueError, match="results.md lacks a place for step; add <!-- results:step -->"):
            require_places(page, {"step": STEP})


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("ratio", "| ratio |\n| --- |\n| 1 |\n| - |\n"),
        ("ratio; trainer | sparse", "| ratio | trainer |\n| --- | --- |\n| - | sparse |\n"),
        ("trainer | sparse & 41.24; plain", "| trainer |\n| --- |\n| sparse |\n| plain |\n"),
    ],
)
def test_a_place_may_show_a_part(part: str, table: str) -> None:
    page = PAGE.replace("results:step", f"results:step | {part}")
    origin = "2 cores; 2026-11-21; a part of [step.json](../benchmarks/results/step.json)."
    marks = f"<!-- results:step | {part} -->\n{table}\n{origin}\n<!-- /results -->"
    assert fill(page, {"step": STEP}, "../") == f"Before.\n{marks}\nAfter.\n"


@pytest.mark.parametrize("part", ["speed", "ratio | dense", "ratio | sparse & 40"])
def test_a_part_that_is_not_there_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="step lacks (the column|a row)"):
        fill(PAGE.replace("results:step", f"results:step | {part}"), {"step": STEP})


def test_a_result_without_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text(json.dumps({key: STEP[key] for key in STEP if key != "hardware"}))
    with pytest.raises(ValueError, match="step.json lacks hardware"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9"),
        (88.875, "88.88"),
        (12345.6, "12,346"),
        (12345, "12,345"),
        ("dense", "dense"),
        (None, "-"),
    ],
)
def test_numbers_are_written_for_readers(value: object, text: str) -> None:
    assert cell(value) == text
