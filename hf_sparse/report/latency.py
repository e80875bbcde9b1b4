"""Latencies of a model in several runtimes, as a table and as a figure."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_sparse.report.pictures import DENSE, GRAY, LITERAL, ZEROS, hide_frame, new_figure
from hf_sparse.report.tables import narrow_table
from hf_sparse.runs.latency import RUNTIMES, LatencyReport, milliseconds
from hf_sparse.units import counted, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def print_latency(report: LatencyReport, console: Console) -> None:
    """Print the report within 80 columns."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(f"{report.model}: {report.architecture}, {report.conditions.inputs}")
    say(f"{_hardware(report)}; {_software(report)}")
    console.print("", _table(report), "")
    say(
        f"Differences are the largest from the outputs of {report.reference}, whose outputs go up to "
        f"{report.largest:.3g}."
    )
    for row in report.rows:
        if row.note:
            say(f"{row.name}: {row.note}")
    for name, reason in report.missing.items():
        say(f"Not measured: {name}: {reason}.")
    console.print()
    console.print(report.verdict, highlight=False, markup=False, style="bold")


def latency_figure(report: LatencyReport) -> "Figure":
    """Draw the medians as bars, the fastest first, with a line to the 95th percentile."""
    rows = report.ranked
    figure = new_figure(
        9, 1.7 + 0.42 * len(rows), f"{Path(report.model).name}: {report.conditions.inputs}", 12
    )
    axes = figure.subplots()
    axes.set_title(_hardware(report), fontsize=9, color=GRAY, loc="left", **LITERAL)
    medians, lates = [row.median_ms for row in rows], [row.p95_ms for row in rows]
    colors = [ZEROS if row.own else DENSE for row in rows]
    places = range(len(rows))
    axes.barh(places, medians, color=colors, height=0.62)
    axes.hlines(places, medians, lates, color=GRAY, linewidth=1.2)
    for place, row, late in zip(places, rows, map(max, medians, lates), strict=True):
        axes.annotate(
            f"{milliseconds(row.median_ms)} ms",
            (late, place),
            (5, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=9,
            fontweight="bold" if row.own else "normal",
        )
    axes.set_yticks(places, [row.name for row in rows], **LITERAL)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * max(max(medians), max(lates)))
    axes.set_xlabel("milliseconds for a batch: median, and a line to the 95th percentile", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    hide_frame(axes, "top", "right", "left")
    return figure


def _table(report: LatencyReport) -> Table:
    sizes = ("sequences\na second", "weights,\nMB")
    table = narrow_table("", "median\nms", "p95\nms", *sizes, "differs\nby", "times\nas long")
    best = report.best
    for row in report.ranked:
        table.add_row(
            escape(row.name),
            milliseconds(row.median_ms),
            milliseconds(row.p95_ms),
            short(report.per_second(row)),
            short(row.weight_bytes / 1e6),
            "-" if row.name == report.reference else f"{row.difference:.1e}",
            f"{short(row.median_ms / best.median_ms)}x" if best else "-",
            style="bold" if row.own else None,
        )
    return table


def _hardware(report: LatencyReport) -> str:
    kernels = report.machine["kernels"]
    cores = report.machine["cores"]
    return (
        f"{report.machine['processor']}, {counted(cores, 'core')}, "
        f"{f'kernels for {kernels}' if kernels else 'no kernels of this runtime'}"
    )


def _software(report: LatencyReport) -> str:
    found = report.machine["versions"]
    names = ("hf_sparse", "torch", "transformers", *RUNTIMES)
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)
