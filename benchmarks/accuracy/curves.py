"""Pictures of finished models for docs/: accuracy against upstream tokens, zeros, and bytes of the encoder.

    python benchmarks/accuracy/curves.py

Reads benchmarks/results/accuracy/*.json; writes docs/pictures/accuracy_*.png. Bars are one standard error of
the validation set; the gray band is that of the dense model.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from arms import DENSE, TASKS, Results, bits_of, is_arm, scores, upstream_cost
from figures import RESULTS, only_row, percent, tokens_axis
from stages import read_finished

from hf_sparse.report.pictures import GRAY, RATE, ZEROS, hide_frame, new_figure, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
OURS, SHORT = "transfer", "short transfer"
_COLORS = {"85 %": RATE, "90 %": ZEROS}
# A method's name in a picture, its color and marker.
_METHODS = {
    OURS: ("pruned once, transferred", ZEROS, "o"),
    "GMP": ("pruned while fine-tuning (GMP)", RATE, "s"),
    "GMP*": ("pruned while fine-tuning (GMP*)", "#7a5195", "^"),
    "published": ("pruned once as published", GRAY, "v"),
}
_BARS = {"markersize": 7, "linewidth": 1.8, "elinewidth": 1.2, "capsize": 3}


@dataclass(frozen=True)
class Dot:
    """The models of a cell of the table: of one group, task and upstream budget, one for each seed."""

    task: str
    method: str
    sparsity: float
    bits: int
    tokens: float
    megabytes: float | None
    score: float
    error: float


def read_dots(results: Results) -> list[Dot]:
    """Return all measured models and short transfers, in the order of tokens."""
    cells: dict[tuple[str, str, float], list[str]] = defaultdict(list)
    for name, result in results.items():
        group, task = only_row(result)["group"], result["settings"]["data"]
        if is_arm(result) or group.startswith(SHORT):
            budget = round(upstream_cost(results, name)["tokens"] / 1e6, 1)
            cells[group, task, budget].append(name)
    dots = []
    for (group, task, _), names in cells.items():
        found = [only_row(results[name]) for name in names]
        sizes = [row["encoder_bytes"] / 1e6 for row in found if "encoder_bytes" in row]
        dots.append(
            Dot(
                task,
                re.split(r" \d", group)[0],
                found[0]["sparsity"],
                bits_of(results[names[0]]),
                fmean(upstream_cost(results, name)["tokens"] for name in names),
                fmean(sizes) if sizes else None,
                fmean(scores(results, names)),
                max(scores(results, names, "_error")),
            )
        )
    return sorted(dots, key=lambda dot: dot.tokens)


def tokens_figure(dots: Sequence[Dot]) -> "Figure | None":
    """Draw short and whole transfers against upstream tokens, GMP and dense as levels."""
    shown = [dot for dot in dots if dot.method in (OURS, SHORT) and dot.bits == 32 and dot.tokens]
    figure, panels = panels_of(shown)
    for task, axes in panels.items():
        here = [dot for dot in shown if dot.task == task]
        for number, (sparsity, color) in enumerate(_COLORS.items()):
            for method, name, looks in (
                (SHORT, "short transfer", {"linestyle": "--", "markerfacecolor": "white"}),
                (OURS, "whole transfer", {"linestyle": "-"}),
            ):
                chosen = [dot for dot in here if dot.method == method and percent(dot.sparsity) == sparsity]
                label = f"{name}, {sparsity} zeros"
                # Side by side, so that bars do not hide each other.
                places = [dot.tokens * (0.975, 1.025)[number] for dot in chosen]
                draw(axes, places, chosen, label=label, color=color, marker="o", **looks)
            for dot in dots:
                if (dot.task, dot.method, percent(dot.sparsity)) == (task, "GMP", sparsity):
                    style = {"color": color, "linestyle": ":", "linewidth": 1.6}
                    axes.axhline(dot.score, label=f"while fine-tuning (GMP), {sparsity} zeros", **style)
        draw_dense(axes, dots, task)
        tokens_axis(axes, [int(dot.tokens) for dot in here])
        axes.set_xlabel("upstream tokens, pruned once for all tasks")
    return with_legend(figure, panels)


def sparsity_figure(dots: Sequence[Dot]) -> "Figure | None":
    """Draw the models of each method against their zeros."""
    shown = [dot for dot in newest(dots) if dot.bits == 32]
    figure, panels = panels_of(shown)
    for task, axes in panels.items():
        here = [dot for dot in shown if dot.task == task]
        for number, (method, (name, color, marker)) in enumerate(_METHODS.items()):
            chosen = sorted((dot for dot in here if dot.method == method), key=lambda dot: dot.sparsity)
            places = [100 * dot.sparsity + 0.2 * (number - 0.5) for dot in chosen]
            draw(axes, places, chosen, label=name, color=color, marker=marker)
        draw_dense(axes, dots, task)
        ticks = sorted({round(100 * dot.sparsity) for dot in shown})
        axes.set_xticks(ticks, [f"{tick} %" for tick in ticks])
        axes.set_xlim(ticks[0] - 2, ticks[-1] + 2)
        axes.set_xlabel("zeros in the encoder")
    return with_legend(figure, panels)


def bytes_figure(dots: Sequence[Dot]) -> "Figure | None":
    """Draw the models of each method against the bytes of their packed encoders."""
    from matplotlib.ticker import NullLocator

    shown = [dot for dot in newest(dots) if dot.megabytes]
    figure, panels = panels_of(shown)
    for task, axes in panels.items():
        for number, (method, (name, color, marker)) in enumerate(_METHODS.items()):
            for bits in (32, 8, 4):
                chosen = [dot for dot in shown if (dot.task, dot.method, dot.bits) == (task, method, bits)]
                fill = {} if bits == 32 else {"markerfacecolor": "white"}
                label = name if bits == 32 else f"{name}, {bits} bits"
                places = [dot.megabytes * (1 + 0.02 * number) for dot in chosen]
                draw(axes, places, chosen, label=label, color=color, marker=marker, linestyle="", **fill)
                for dot in chosen:
                    where = {"textcoords": "offset points", "xytext": (7, 5), "fontsize": 8, "color": color}
                    axes.annotate(percent(dot.sparsity), (dot.megabytes, dot.score), **where)
        draw_dense(axes, dots, task)
        axes.set_xscale("log")
        ticks = [1, 2, 5, 10]
        axes.set_xticks(ticks, [f"{tick} MB" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0.8, 12)
        axes.set_xlabel("packed encoder; float32, dense: 42.5 MB")
    return with_legend(figure, panels)


def newest(dots: Sequence[Dot]) -> list[Dot]:
    """Return the models of each method with the most upstream tokens."""
    last = {(dot.task, dot.method, percent(dot.sparsity), dot.bits): dot for dot in dots}
    return [dot for dot in last.values() if dot.method in _METHODS]


def panels_of(dots: Sequence[Dot]) -> "tuple[Figure | None, dict[str, Axes]]":
    """Return a figure with a panel for each task that has points."""
    tasks = [task for task in TASKS if any(dot.task == task for dot in dots)]
    if not tasks:
        return None, {}
    figure = new_figure(4.6 * len(tasks) + 0.2, 4.4)
    panels = dict(zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True))
    for task, axes in panels.items():
        axes.set_title(TASKS[task], fontsize=12)
        axes.grid(axis="y", color="#eceff1", linewidth=0.8)
        axes.set_axisbelow(True)
        hide_frame(axes, "top", "right")
    next(iter(panels.values())).set_ylabel("validation score (%)")
    return figure, panels


def draw(axes: "Axes", places: Sequence[float], dots: Sequence[Dot], **looks: Any) -> None:
    if dots:
        errors = [dot.error for dot in dots]
        axes.errorbar(places, [dot.score for dot in dots], yerr=errors, **_BARS, **looks)


def draw_dense(axes: "Axes", dots: Sequence[Dot], task: str) -> None:
    """Draw the score of the dense model with its standard error."""
    for dot in dots:
        if (dot.task, dot.method) == (task, DENSE):
            band = (dot.score - dot.error, dot.score + dot.error)
            axes.axhspan(*band, color="#e4e8eb", zorder=0, linewidth=0)
            axes.axhline(dot.score, color=GRAY, linewidth=1.4, label="dense ± standard error", zorder=1)


def with_legend(figure: "Figure | None", panels: "Mapping[str, Axes]") -> "Figure | None":
    """Add one legend for all panels, below them."""
    if figure is not None:
        handles = dict(pair for axes in panels.values() for pair in labeled(axes))
        place = {"loc": "outside lower center", "ncols": min(3, len(handles)), "frameon": False}
        figure.legend(list(handles.values()), list(handles), fontsize=9, handlelength=3, **place)
    return figure


def labeled(axes: "Axes") -> Iterator[tuple[str, Any]]:
    handles, labels = axes.get_legend_handles_labels()
    return zip(labels, handles, strict=True)


def main() -> None:
    dots = read_dots(read_finished(RESULTS))
    figures = {"tokens": tokens_figure(dots), "sparsity": sparsity_figure(dots), "bytes": bytes_figure(dots)}
    for name, figure in figures.items():
        if figure is None:
            print(f"accuracy_{name}.png is not drawn: nothing of it is measured")
        else:
            write_png(figure, PICTURES / f"accuracy_{name}.png")


if __name__ == "__main__":
    main()
