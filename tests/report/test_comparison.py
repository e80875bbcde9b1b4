"""Tables of runs side by side, within 80 columns."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from hf_sparse.report.comparison import notes_of, print_differences, print_runs, score_text
from hf_sparse.runs.comparison import Comparison
from hf_sparse.units import megabytes
from tests.report.runs import compared, write_run


def printed(comparison: Comparison) -> list[str]:
    console = Console(file=StringIO(), width=80)
    print_runs(comparison, console)
    print_differences(comparison, console)
    return console.file.getvalue().splitlines()


def test_only_scores_of_one_yardstick_are_a_group(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", sparsity=None),
        write_run(tmp_path / "b", sparsity=None),
        write_run(tmp_path / "fewer", sparsity=None, samples=10),
        write_run(tmp_path / "words", sparsity=None, architecture="BertForMaskedLM"),
        write_run(tmp_path / "none", sparsity=None, accuracy=None, log=[]),
    )
    groups = [[run.name for run in runs] for runs in comparison.groups.values()]
    assert groups == [["a", "b"], ["fewer"], ["words"], ["none"]]
    assert "not comparable" in " ".join(notes_of(comparison))


def test_latencies_of_other_conditions_are_left_out(tmp_path: Path) -> None:
    comparison = compared(
        write_run(tmp_path / "a", sparsity=None, milliseconds=1.0),
        write_run(tmp_path / "b", sparsity=None, milliseconds=2.0),
        write_run(tmp_path / "elsewhere", sparsity=None, milliseconds=3.0, latency={"threads": 8}),
    )
    assert [comparison.latency(run) for run in comparison.runs] == [1.0, 2.0, None]
    assert [run.name for run in comparison.elsewhere] == ["elsewhere"]
    assert "left out: the latency of elsewhere" in " ".join(notes_of(comparison))


def test_the_table_fits_however_long_a_name_is(tmp_path: Path) -> None:
    home = write_run(tmp_path / ("long_name_" * 8), milliseconds=1.25)
    lines = printed(compared(home, write_run(tmp_path / "b", sparsity=0.0, seconds=None)))
    assert max(map(len, lines)) <= 80
    row = next(line.split() for line in lines if line.startswith("b "))
    assert row[1:4] == ["0.0%", "-", "0.7500"] and row[-1] == "-"
    assert "1.25" in "".join(lines)


def test_names_and_values_are_no_markup(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a[red]b[", sparsity=None, arguments={"optim": "[/x]"})
    lines = printed(compared(first, write_run(tmp_path / "b", sparsity=None)))
    assert any(line.startswith("a[red]b[ ") for line in lines)
    assert ["optim", "[/x]", "a[red]b["] in [line.split() for line in lines]


def test_numbers_have_the_digits_that_count() -> None:
    assert [megabytes(count) for count in (37_100, 990_000, 4_250_000, 265_000_000)] == [
        "0.037",
        "0.990",
        "4.25",
        "265.0",
    ]
    assert [score_text(score) for score in (0.9, 88.123)] == ["0.9000", "88.12"]
