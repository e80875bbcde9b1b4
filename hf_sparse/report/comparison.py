"""Measured runs side by side, as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_sparse.report.tables import narrow_table
from hf_sparse.runs.comparison import Comparison
from hf_sparse.runs.measured_run import OWN, MeasuredRun, Yardstick
from hf_sparse.units import megabytes, milliseconds

_ABSENT = "-"


def print_runs(comparison: Comparison, console: Console) -> None:
    """Print the measurements of runs within 80 columns."""
    for yardstick, runs in comparison.groups.items():
        console.print("", _table(yardstick, runs, comparison))
    console.print()
    for note in notes_of(comparison):
        console.print(note, highlight=False, markup=False)


def print_differences(comparison: Comparison, console: Console) -> None:
    """Print the settings that differ within 80 columns; nothing if all are equal."""
    if comparison.differences:
        console.print("\nSettings that differ (runs that are not named lack the setting):\n")
        console.print(_difference_table(comparison))


def notes_of(comparison: Comparison) -> list[str]:
    """Return sentences on how scores and latencies were measured, and which of them do not compare."""
    notes = []
    yardsticks = [yardstick for yardstick in comparison.groups if yardstick is not None]
    if len(yardsticks) == 1:
        notes.append(f"Scores: {yardsticks[0]}.")
    elif yardsticks:
        notes.append(
            "Scores are not comparable between models for different tasks, nor between metrics, datasets or "
            "numbers of examples: "
            + "; ".join(
                f"{', '.join(run.name for run in comparison.groups[yardstick])} by {yardstick}"
                + (f" ({yardstick.head})" if yardstick.head else "")
                for yardstick in yardsticks
            )
            + "."
        )
    if comparison.conditions is not None:
        notes.append(f"Milliseconds: median for {comparison.conditions}.")
    if comparison.elsewhere:
        names = ", ".join(run.name for run in comparison.elsewhere)
        notes.append(f"Measured under other conditions and therefore left out: the latency of {names}.")
    return notes


def _table(yardstick: Yardstick | None, runs: Sequence[MeasuredRun], comparison: Comparison) -> Table:
    every = comparison.runs
    metric = "score" if yardstick is None else yardstick.name
    packed = any(set(run.files) - {OWN} for run in every)
    headings = ["zeros", "pattern", metric, "file\nMB", *(["packed\nMB"] if packed else []), "ms"]
    table = narrow_table("run", *map(escape, headings))
    table.columns[0].no_wrap, table.columns[0].overflow, table.columns[0].max_width = False, "fold", 26
    for run in runs:
        others = [taken for form, taken in run.files.items() if form != OWN]
        cells = [
            _ABSENT if run.sparsity is None else f"{run.sparsity:.1%}",
            run.pattern or _ABSENT,
            _ABSENT if run.score is None else score_text(run.score),
            megabytes(run.files[OWN]) if OWN in run.files else _ABSENT,
            *([megabytes(min(others)) if others else _ABSENT] if packed else []),
            _ABSENT if (taken := comparison.latency(run)) is None else milliseconds(taken),
        ]
        table.add_row(escape(run.name), *map(escape, cells))
    return table


def _difference_table(comparison: Comparison) -> Table:
    table = narrow_table("setting", "value", "runs")
    for column in table.columns:
        column.no_wrap, column.overflow, column.justify, column.vertical = False, "fold", "left", "top"
    for name, values in comparison.differences.items():
        for place, (value, runs) in enumerate(values.items()):
            cells = ("" if place else name, value, ", ".join(run.name for run in runs))
            table.add_row(*map(escape, cells))
    return table


def score_text(score: float) -> str:
    """Write a score with four significant digits, so that scores of one metric line up."""
    return f"{score:.4f}" if abs(score) < 10 else f"{score:,.2f}"
