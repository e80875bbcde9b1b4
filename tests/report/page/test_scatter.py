"""Scores against size and latency."""

from pathlib import Path

import pytest

from hf_sparse.report.page.scatter import scatters, write_scatter
from tests.report.runs import compared, write_run


def test_runs_are_numbered_and_named_below(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "words", sparsity=0.5, architecture="BertForMaskedLM"),
        write_run(tmp_path / "a", sparsity=0.0, accuracy=0.9, milliseconds=4.0),
        write_run(tmp_path / "b", accuracy=0.8, milliseconds=2.0),
    )
    (picture,) = scatters(comparison)
    assert picture.name == "latency" and picture.title == "Accuracy against latency"
    axes = picture.figure.axes[0]
    assert [note.get_text() for note in axes.texts] == ["2", "3"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[4.0, 0.9]], [[2.0, 0.8]]]
    assert picture.figure.get_supxlabel() == "2\u00a0a, 3\u00a0b"
    assert "1 thread, Abacus" in picture.caption and "Orange diamonds" in picture.caption


def test_numbers_of_points_in_one_place_do_not_cover_each_other(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{number}", milliseconds=2.0) for number in range(4)]
    runs.append(write_run(tmp_path / "slow", milliseconds=4.0))
    (picture,) = scatters(compared(*runs))
    places = [note.xyann for note in picture.figure.axes[0].texts[:4]]
    assert len(set(places)) == 4


def test_a_picture_holds_all_that_can_be_drawn(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, milliseconds=speed) for name, speed in (("a", 1.0), ("b", 2.0))]
    write_scatter(compared(*runs), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_compares_the_way_out_is_named(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, samples=count) for name, count in (("a", 10), ("b", 20))]
    assert scatters(compared(*runs)) == []
    with pytest.raises(ValueError, match="compare without --png"):
        write_scatter(compared(*runs), tmp_path / "picture.png")
