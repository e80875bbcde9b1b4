"""How long a model takes in several runtimes, as a table, as numbers, as a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_sparse.environment import hardware, versions
from hf_sparse.report.pictures import DENSE, GREY, LITERAL, ZEROS, hide_frame, new_figure, printable
from hf_sparse.report.tables import narrow_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How many times as fast as all others this runtime must be, or there is no gain to speak of.
GAIN = 1.05
_RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class LatencyRow:
    """One way to compute a model, `ours` if it is this runtime: the seconds of each call.

    `weight_bytes` as it holds its weights; `difference` from the reference, the largest of all outputs.
    """

    name: str
    ours: bool
    seconds: tuple[float, ...]
    weight_bytes: int
    difference: float
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def late(self) -> float:
        """The 95th percentile."""
        return float(np.percentile(self.seconds, 95))


@dataclass(frozen=True)
class LatencyReport:
    """A model, what it was given, on which machine, and what came of it.

    `largest` is the largest of the outputs of the `reference`, from which differences are; `missing` says why
    some were not measured.
    """

    model: str
    architecture: str
    batch: int
    length: int
    threads: int
    machine: Mapping[str, Any]
    reference: str
    largest: float
    rows: tuple[LatencyRow, ...]
    missing: Mapping[str, str]

    @property
    def ranked(self) -> list[LatencyRow]:
        """The rows, the fastest first."""
        return sorted(self.rows, key=lambda row: row.median)

    @property
    def best(self) -> LatencyRow | None:
        """The fastest row of this runtime."""
        return next((row for row in self.ranked if row.ours), None)

    @property
    def rival(self) -> LatencyRow:
        """The fastest row of the others, among which PyTorch always is."""
        return next(row for row in self.ranked if not row.ours)

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the fastest of the others this runtime is."""
        return None if self.best is None else self.rival.median / self.best.median


def machine(kernels: str | None) -> dict[str, Any]:
    """Describe the machine: processor, cores, which kernels of this runtime it runs, versions."""
    found = hardware()
    return {
        "processor": found["processor"],
        "cores": found["cores"],
        "system": found["system"],
        "kernels": kernels,
        "versions": versions(*_RUNTIMES),
    }


def verdict(report: LatencyReport) -> str:
    """Say in a sentence whether this runtime is worth while."""
    best, rival = report.best, report.rival
    theirs = f"{rival.name} with {_milliseconds(rival.median)} ms"
    if best is None:
        return f"This runtime was not measured; the fastest is {theirs}."
    if report.speedup < GAIN:
        return (
            f"No gain here: of the others the fastest is {theirs}, and {best.name} takes "
            f"{_milliseconds(best.median)} ms."
        )
    return f"{best.name} is {report.speedup:.2f} times as fast as the fastest of the others, {theirs}."


def print_latency(report: LatencyReport, console: Console) -> None:
    """Print what was measured within 80 columns."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    say(f"{report.model}: {report.architecture}, {_inputs(report)}")
    say(f"{_hardware(report)}; {_software(report)}")
    console.print("", _table(report), "")
    say(
        f"Differences are the largest from what {report.reference} answers, whose outputs go up to "
        f"{report.largest:.3g}."
    )
    for row in report.rows:
        if row.note:
            say(f"{row.name}: {row.note}")
    for name, reason in report.missing.items():
        say(f"Not measured: {name}: {reason}.")
    console.print()
    console.print(verdict(report), highlight=False, markup=False, style="bold")


def latency_as_dict(report: LatencyReport) -> dict[str, Any]:
    """Return all there is to know as JSON takes it; a difference that is not finite gives None."""
    best = report.best
    return {
        "model": report.model,
        "architecture": report.architecture,
        "batch": report.batch,
        "length": report.length,
        "threads": report.threads,
        "machine": dict(report.machine),
        "reference": report.reference,
        "largest_output": report.largest if isfinite(report.largest) else None,
        "rows": [
            {
                "name": row.name,
                "ours": row.ours,
                "median_ms": 1000 * row.median,
                "p95_ms": 1000 * row.late,
                "sequences_per_second": report.batch / row.median,
                "weight_bytes": row.weight_bytes,
                "largest_difference": row.difference if isfinite(row.difference) else None,
                "times_ours": row.median / best.median if best else None,
                "note": row.note,
                "ms": [1000 * taken for taken in row.seconds],
            }
            for row in report.ranked
        ],
        "missing": dict(report.missing),
        "speedup": report.speedup,
        "gain": report.speedup is not None and report.speedup >= GAIN,
        "verdict": verdict(report),
    }


def latency_figure(report: LatencyReport) -> "Figure":
    """Draw the medians as bars, the fastest first, with a line to the 95th percentile."""
    rows = report.ranked
    figure = new_figure(9, 1.7 + 0.42 * len(rows))
    figure.suptitle(
        printable(f"{Path(report.model).name}: {_inputs(report)}"),
        fontsize=12,
        x=0.01,
        horizontalalignment="left",
        fontweight="bold",
        **LITERAL,
    )
    axes = figure.subplots()
    axes.set_title(_hardware(report), fontsize=9, color=GREY, loc="left", **LITERAL)
    medians, lates = ([1000 * value for value in values] for values in _times(rows))
    colours = [ZEROS if row.ours else DENSE for row in rows]
    places = range(len(rows))
    axes.barh(places, medians, color=colours, height=0.62)
    axes.hlines(places, medians, lates, color=GREY, linewidth=1.2)
    for place, row, late in zip(places, rows, map(max, medians, lates), strict=True):
        axes.annotate(
            f"{_milliseconds(row.median)} ms",
            (late, place),
            (5, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=9,
            fontweight="bold" if row.ours else "normal",
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


def _times(rows: list[LatencyRow]) -> tuple[list[float], list[float]]:
    return [row.median for row in rows], [row.late for row in rows]


def _table(report: LatencyReport) -> Table:
    headings = ("median\nms", "p95\nms", "sequences\na second", "weights,\nMB", "differs\nby", "times\nours")
    table = narrow_table("", *headings)
    for row in report.ranked:
        table.add_row(
            escape(row.name),
            _milliseconds(row.median),
            _milliseconds(row.late),
            _short(report.batch / row.median),
            _short(row.weight_bytes / 1e6),
            "-" if row.name == report.reference else f"{row.difference:.1e}",
            f"{_short(row.median / report.best.median)}x" if report.best else "-",
            style="bold" if row.ours else None,
        )
    return table


def _inputs(report: LatencyReport) -> str:
    threads = "1 thread" if report.threads == 1 else f"{report.threads} threads"
    tokens = "1 token" if report.length == 1 else f"{report.length} tokens"
    return f"batches of {report.batch} x {tokens}, {threads}"


def _hardware(report: LatencyReport) -> str:
    kernels = report.machine["kernels"]
    cores = report.machine["cores"]
    return (
        f"{report.machine['processor']}, {cores} {'core' if cores == 1 else 'cores'}, "
        f"{f'kernels for {kernels}' if kernels else 'no kernels of this runtime'}"
    )


def _software(report: LatencyReport) -> str:
    found = report.machine["versions"]
    names = ("hf_sparse", "torch", "transformers", *_RUNTIMES)
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3f}" if seconds < 1e-3 else _short(1000 * seconds)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1f}" if number >= 100 else f"{number:.2f}"
