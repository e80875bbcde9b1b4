"""Scores against size and against latency, a numbered point for every run."""

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from hf_sparse.report.comparison import Comparison
from hf_sparse.report.measured import MeasuredRun, Yardstick
from hf_sparse.report.page.canvas import NOTE_LINE, TEXT, Picture, name_axes, new_panels, plain
from hf_sparse.report.page.colours import BLUE, INK, ORANGE
from hf_sparse.report.page.curves import score_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Points whose horizontal places differ by less than this tell nothing.
_SPREAD = 1.01
# Where a number may stand beside its point, in points; how near two may come; the size of the panel.
_OFFSETS = (
    (0, 11),
    (0, -11),
    (11, 0),
    (-11, 0),
    (11, 11),
    (-11, 11),
    (11, -11),
    (-11, -11),
    (0, 23),
    (0, -23),
)
_NEAR, _PANEL = 12.0, (250.0, 125.0)


def scatters(comparison: Comparison) -> list[Picture]:
    """Draw the runs of every group that can be compared against size and latency, as far as these differ."""
    found = []
    for yardstick, runs in comparison.groups.items():
        if yardstick is None:
            continue
        found += [
            picture
            for picture in (_sizes(yardstick, runs, comparison), _speeds(yardstick, runs, comparison))
            if picture
        ]
    return found


def _sizes(yardstick: Yardstick, runs: Sequence[MeasuredRun], comparison: Comparison) -> Picture | None:
    points = [(run, run.smallest[1] / 1e6) for run in runs if run.smallest is not None]
    forms = sorted({run.smallest[0] for run, _ in points} - {"model"})
    note = f", which for some is the one in {' or '.join(forms)}/" if forms else ""
    caption = f"The {yardstick} against the size of the smallest file of weights{note}."
    return _scatter("size", yardstick, points, "weights in the file (MB)", caption, comparison)


def _speeds(yardstick: Yardstick, runs: Sequence[MeasuredRun], comparison: Comparison) -> Picture | None:
    points = [(run, taken) for run in runs if (taken := comparison.latency(run)) is not None]
    caption = f"The {yardstick} against the median latency for {comparison.conditions}."
    return _scatter("latency", yardstick, points, "milliseconds", caption, comparison)


def _scatter(
    what: str,
    yardstick: Yardstick,
    points: Sequence[tuple[MeasuredRun, float]],
    label: str,
    caption: str,
    comparison: Comparison,
) -> Picture | None:
    places = [place for _, place in points]
    if len(points) < 2 or max(places) < _SPREAD * min(places):
        return None
    title = f"{yardstick.name[0].upper()}{yardstick.name[1:]} against {what}"
    figure, (axes,) = new_panels(title, height=3.3)
    for run, place in points:
        axes.plot(
            place, run.score, "o", markersize=8, color=(ORANGE if run.dense else BLUE).light, clip_on=False
        )
    axes.set_xlim(0, 1.08 * max(places))
    axes.set_ylim(*score_limits(run.score for run, _ in points))
    numbers = {run.name: f"{number}" for number, (run, _) in enumerate(points, start=1)}
    _number(axes, [(numbers[run.name], place, run.score) for run, place in points])
    name_axes(axes, x=label, y=yardstick.name)
    axes.xaxis.set_major_formatter("{x:,g}")
    figure.supxlabel(
        "\n".join(wrap(plain(", ".join(f"{numbers[run.name]} {run.name}" for run, _ in points)), NOTE_LINE)),
        fontsize=TEXT,
        color=INK.light,
    )
    dense = any(run.dense for run, _ in points) and not all(run.dense for run, _ in points)
    caption += " Orange points are dense models." if dense else ""
    several = len([key for key in comparison.groups if key is not None]) > 1
    group = list(comparison.groups).index(yardstick) + 1
    return Picture(f"{what}{f'-{group}' if several else ''}", title, caption, figure)


def _number(axes: "Axes", points: Sequence[tuple[str, float, float]]) -> None:
    """Write numbers beside points, where they touch neither each other nor other points."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    there = [
        ((x - left) / (right - left) * _PANEL[0], (y - low) / (high - low) * _PANEL[1]) for _, x, y in points
    ]
    taken = list(there)
    for (number, x, y), (across, up) in zip(points, there, strict=True):
        offset = max(
            _OFFSETS, key=lambda offset: min(_room((across + offset[0], up + offset[1]), taken), _NEAR)
        )
        taken.append((across + offset[0], up + offset[1]))
        axes.annotate(
            number,
            (x, y),
            offset,
            textcoords="offset points",
            fontsize=TEXT,
            fontweight="bold",
            color=INK.light,
            horizontalalignment="center",
            verticalalignment="center",
        )


def _room(place: tuple[float, float], taken: Sequence[tuple[float, float]]) -> float:
    """Return how far the next thing is, nothing outside the panel."""
    inside = 0 <= place[0] <= _PANEL[0] and -8 <= place[1] <= _PANEL[1] + 8
    distance = min(max(abs(place[0] - x), abs(place[1] - y)) for x, y in taken)
    return distance if inside else -1.0
