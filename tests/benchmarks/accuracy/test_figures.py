"""The figures and the table of the accuracy study show what was measured."""

import json
from pathlib import Path

import arms
import figures
import pytest
from stages import read_finished, read_plan

from tests.benchmarks.accuracy.fakes import published

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Publish two budgets at 90 %, one at 85 %; of 3 M tokens, a transfer whose upstream stage is missing."""
    score = {"accuracy": 0.8, "accuracy_error": 0.01}
    for name, tokens, sparsity, errors, rate in (
        ("up90_1M_slow", 1_001_000, 0.9, [0.3, 0.5, 0.7], 1e-4),
        ("up90_1M_fast", 1_001_000, 0.9, [0.2, 0.4, 0.5], 1e-2),
        ("up90_1M", 1_002_000, 0.9, [0.1, 0.3, 0.6], 1e-3),
        ("up90_300k", 299_000, 0.8999, [0.2, 0.4, 0.8], 1e-3),
        ("up85_1M", 1_002_000, 0.85, [0.1, 0.2, 0.4], 1e-2),
    ):
        distances = {str(10 - i): error for i, error in enumerate(reversed(errors))}
        row = {
            "tokens": tokens,
            "sparsity": sparsity,
            "distances": distances,
            "rate": rate,
            "recipe": "prune_encoder_90",
        }
        published(tmp_path, name, f"upstream {100 * sparsity:.0f} %", "ENCODER", "text", **row)
    published(tmp_path, "dense", "dense", "ENCODER", "sst2", **score | {"accuracy": 0.89, "sparsity": 0.0})
    published(tmp_path, "gmp", "GMP 85 %", "ENCODER", "sst2", **score | {"accuracy": 0.85, "sparsity": 0.85})
    for name, start, accuracy in (("s1", "up90_1M", 0.8), ("s3", "up90_300k", 0.75), ("s0", "up90_3M", 0.82)):
        published(tmp_path, name, "short transfer 90 %", start, "sst2", **score | {"accuracy": accuracy})
    published(tmp_path, "long", "transfer 90 %", "up90_1M", "sst2", **score)
    return tmp_path


def test_distances_are_those_after_each_upstream_stage(folder: Path) -> None:
    results = read_finished(folder)
    last = {point.stage: (point.tokens, point.value) for point in figures.distance_points(results, True)}
    assert last == {
        "up90_1M": (1_002_000, 0.6),
        "up90_1M_slow": (1_001_000, 0.7),
        "up90_1M_fast": (1_001_000, 0.5),
        "up90_300k": (299_000, 0.8),
        "up85_1M": (1_002_000, 0.4),
    }
    others = {point.stage: point.value for point in figures.distance_points(results, False)}
    assert others == pytest.approx(
        {"up90_1M": 0.2, "up90_1M_slow": 0.4, "up90_1M_fast": 0.3, "up90_300k": 0.3, "up85_1M": 0.15}
    )


def test_a_short_transfer_stands_at_the_tokens_of_the_stage_it_starts_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = read_finished(folder)
    found = figures.transfer_points(results, "sst2")
    assert [(point.stage, point.tokens, point.value, point.error) for point in found] == [
        ("s1", 1_002_000, 0.8, 0.01),
        ("s3", 299_000, 0.75, 0.01),
    ]
    assert capsys.readouterr().out == (
        "s0 is left out: results of up90_3M, which it starts from, are missing\n"
    )
    assert figures.transfer_points(results, "qnli") == []
    assert figures.references(results, "sst2") == {"dense": 0.89, "GMP 85 %": 0.85}


def drawn(axes: object) -> dict[str, tuple[list[float], list[float]]]:
    """Return the joined points of a panel by their name in the legend."""
    lines = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    return {name: (list(line.get_xdata()), list(line.get_ydata())) for name, line in lines.items()}


def test_the_figure_of_distances_joins_what_was_learned_at_one_rate(folder: Path) -> None:
    (axes,) = figures.distance_figure(read_finished(folder)).axes
    lines = drawn(axes)
    assert lines["90 %, last layer"] == ([299_000, 1_002_000], [0.8, 0.6])
    assert lines["90 %, mean of the others"][1] == pytest.approx([0.3, 0.2])
    assert lines["85 %, last layer"] == ([1_002_000], [0.4])
    others = [line.get_ydata().tolist() for line in axes.get_lines() if line.get_label().startswith("_")]
    assert list(map(len, others)) == [0, 2, 0, 2]
    assert sum(others, []) == pytest.approx([0.5, 0.7, 0.3, 0.4])
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["300k", "1M"]


def test_the_figure_of_transfers_has_their_errors_and_what_they_are_compared_with(folder: Path) -> None:
    # There is no panel for QNLI.
    (axes,) = figures.transfer_figure(read_finished(folder)).axes
    assert axes.get_title() == "SST-2"
    ((data, _, (bars,)),) = axes.containers
    assert list(data.get_xdata()) == [299_000, 1_002_000]
    assert list(data.get_ydata()) == [75.0, 80.0]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[74.0, 76.0], [79.0, 81.0]]
    heights = {name: set(y) for name, (_, y) in drawn(axes).items()}
    assert heights == {"dense, 89.0": {89.0}, "GMP 85 %, 85.0": {85.0}}
    (color,) = {data.get_color()}
    assert color == figures.looks_of(read_finished(folder))["90 %"]["color"]


def test_nothing_is_drawn_of_nothing() -> None:
    assert figures.distance_figure({}) is None and figures.transfer_figure({}) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(299_000, "300k"), (1_002_000, "1M"), (1_460_000, "1.5M"), (26e6, "30M"), (500, "500")],
)
def test_tokens_are_written_short(count: float, text: str) -> None:
    assert figures.short(count) == text


def test_the_table_has_every_stage_in_the_order_of_the_plan(folder: Path) -> None:
    published(folder, "squad", "transfer", "up90_1M", "squad", f1=80.04, f1_error=0.89, exact_match=70.0)
    text = figures.page(read_finished(folder), ["up90_1M", "dense", "missing"], ["distance.png"])
    table = [line for line in text.splitlines() if line.startswith("| [")]
    assert table[:2] == [
        "| [up90_1M](up90_1M.json) | ENCODER | prune_encoder_90 | 1,002,000 | 1.5 | 90.0 % | - | 0.600 |",
        "| [dense](dense.json) | ENCODER | transfer | 1,000 | 1.5 | 0.0 % | 89.0 ± 1.0 | - |",
    ]
    assert "| [squad](squad.json) | up90_1M | transfer | 1,000 | 1.5 | 90.0 % | F1 80.0 ± 0.9 | - |" in table
    assert len(table) == 12 and "missing" not in text
    assert text.endswith("\n\n![distance](distance.png)\n") and "short_transfer" not in text


def test_all_is_written_beside_the_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["figures.py", "--results", str(folder), "--table", str(folder / "table")]
    )
    figures.main()
    assert capsys.readouterr().out.startswith("not measured yet: sst2_dense, qnli_dense, ")
    assert all(
        (folder / name).read_bytes().startswith(PNG) for name in ("distance.png", "short_transfer.png")
    )
    assert (folder / "README.md").read_text().count("| [") == 11
    assert json.loads((folder / "table").read_text()) == arms.study(read_finished(folder))


def test_without_results_there_is_nothing_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["figures.py", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="lacks results; measure some with"):
        figures.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not list(figures.RESULTS.glob("*.json")), reason="nothing is published yet")
def test_the_published_table_is_that_of_the_published_results() -> None:
    plan = read_plan(figures.HERE / "plan.yaml")
    pictures = [name for name in ("distance.png", "short_transfer.png") if (figures.RESULTS / name).is_file()]
    text = (figures.RESULTS / "README.md").read_text(encoding="utf-8")
    results = read_finished(figures.RESULTS)
    assert text == figures.page(results, list(plan), pictures)
    assert json.loads(figures.TABLE.read_text(encoding="utf-8")) == arms.study(results)


def test_a_teacher_upstream_leaves_colors_as_they_are(folder: Path) -> None:
    looks = figures.looks_of(read_finished(folder))
    published(folder, "words", "upstream teacher", "ENCODER", "text", sparsity=0.0)
    assert figures.looks_of(read_finished(folder)) == looks
