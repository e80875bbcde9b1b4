"""Scores against size and latency, with a numbered point for every run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hf_sparse.report.colors import BLUE, INK, ORANGE
from hf_sparse.report.page.canvas import TEXT, Picture, name_axes, new_panels, write_below
from hf_sparse.report.page.curves import score_limits
from hf_sparse.report.page.sentences import capital
from hf_sparse.report.pictures import write_png
from hf_sparse.runs.comparison import Comparison
from hf_sparse.runs.measured_run import OWN, MeasuredRun, Yardstick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Points whose horizontal places differ by a smaller factor are not drawn.
_SPREAD = 1.01
# Places of a number beside its point, smallest distance of two numbers, size of the panel: all in points.
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
_HEIGHT = 3.3


class _Point(NamedTuple):
    """A run with its number, its place along the horizontal axis and its score."""

    number: int
    run: MeasuredRun
    place: float
    score: float


@dataclass(frozen=True)
class _Plot:
    """Runs that can be compared."""

    name: str
    yardstick: Yardstick
    points: Sequence[_Point]
    label: str
    caption: str

    @property
    def title(self) -> str:
        return f"{capital(self.yardstick.name)} against {self.name}"

    @property
    def worth_drawing(self) -> bool:
        places = [point.place for point in self.points]
        return len(places) > 1 and max(places) > _SPREAD * min(places)


def scatters(comparison: Comparison) -> list[Picture]:
    """Draw the scores of every group that compares against size and latency, where these differ."""
    pictures = []
    for group, plots in enumerate(_groups(comparison), start=1):
        for plot in plots:
            figure, (axes,) = new_panels(plot.title, height=_HEIGHT)
            _draw(axes, plot)
            _name_points(figure, plot.points)
            name = plot.name if len(_groups(comparison)) == 1 else f"{plot.name}-{group}"
            pictures.append(Picture(name, plot.title, plot.caption, figure))
    return pictures


def write_scatter(comparison: Comparison, path: Path) -> None:
    """Write the figure of the largest group that compares as PNG; raise `ValueError` if none can be drawn."""
    groups = _groups(comparison)
    if not groups:
        raise ValueError(
            "a figure needs two runs that were scored alike and differ in size or latency; compare without "
            "--png"
        )
    plots = max(groups, key=lambda plots: len(plots[0].points))
    figure, panels = new_panels(
        capital(f"{plots[0].yardstick}"), len(plots), _HEIGHT * len(plots), shared=False
    )
    for axes, plot in zip(panels, plots, strict=True):
        _draw(axes, plot)
    _name_points(figure, plots[0].points)
    write_png(figure, path)


def _groups(comparison: Comparison) -> list[list[_Plot]]:
    """Return for every group that compares the plots that are worth drawing."""
    groups = []
    for yardstick in comparison.groups:
        if yardstick is not None:
            plots = (_sizes(yardstick, comparison), _speeds(yardstick, comparison))
            groups.append([plot for plot in plots if plot.worth_drawing])
    return [plots for plots in groups if plots]


def _sizes(yardstick: Yardstick, comparison: Comparison) -> _Plot:
    smallest = {run.name: found for run in comparison.runs if (found := run.smallest) is not None}
    places = {name: size / 1e6 for name, (_, size) in smallest.items()}
    points = _points(yardstick, comparison, places)
    forms = sorted({smallest[point.run.name][0] for point in points} - {OWN})
    note = f" (for some runs that in {' or '.join(forms)})" if forms else ""
    caption = (
        f"{capital(str(yardstick))} against the size of the smallest weight file{note}.{_on_dense(points)}"
    )
    return _Plot("size", yardstick, points, "weights in the file (MB)", caption)


def _speeds(yardstick: Yardstick, comparison: Comparison) -> _Plot:
    places = {run.name: taken for run in comparison.runs if (taken := comparison.latency(run)) is not None}
    points = _points(yardstick, comparison, places)
    conditions = f"the median latency for {comparison.conditions}"
    caption = f"{capital(str(yardstick))} against {conditions}.{_on_dense(points)}"
    return _Plot("latency", yardstick, points, "milliseconds", caption)


def _points(yardstick: Yardstick, comparison: Comparison, places: Mapping[str, float]) -> list[_Point]:
    """Return the runs with this yardstick that have a place, which is given by their names."""
    return [
        _Point(number, run, places[run.name], run.score)
        for number, run in comparison.numbered
        if run.yardstick == yardstick and run.name in places and run.score is not None
    ]


def _on_dense(points: Sequence[_Point]) -> str:
    dense = [point.run.dense for point in points]
    return " Orange diamonds are dense models." if any(dense) and not all(dense) else ""


def _draw(axes: "Axes", plot: _Plot) -> None:
    for point in plot.points:
        marker, color = ("D", ORANGE) if point.run.dense else ("o", BLUE)
        axes.plot(point.place, point.score, marker, markersize=8, color=color.light, clip_on=False)
    axes.set_xlim(0, 1.08 * max(point.place for point in plot.points))
    axes.set_ylim(*score_limits(point.score for point in plot.points))
    axes.xaxis.set_major_formatter("{x:,g}")
    name_axes(axes, x=plot.label, y=plot.yardstick.name)
    _number(axes, plot.points)


def _number(axes: "Axes", points: Sequence[_Point]) -> None:
    """Write numbers beside points, where they touch neither each other nor other points."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    there = [
        ((point.place - left) / (right - left) * _PANEL[0], (point.score - low) / (high - low) * _PANEL[1])
        for point in points
    ]
    taken = list(there)
    for point, (across, up) in zip(points, there, strict=True):
        beside = [(across + right, up + above) for right, above in _OFFSETS]
        best = max(range(len(beside)), key=lambda place: min(_room(beside[place], taken), _NEAR))
        taken.append(beside[best])
        axes.annotate(
            f"{point.number}",
            (point.place, point.score),
            _OFFSETS[best],
            textcoords="offset points",
            fontsize=TEXT,
            fontweight="bold",
            color=INK.light,
            horizontalalignment="center",
            verticalalignment="center",
        )


def _room(place: tuple[float, float], taken: Sequence[tuple[float, float]]) -> float:
    """Return the distance to the nearest point or number, -1 outside the panel."""
    inside = 0 <= place[0] <= _PANEL[0] and -8 <= place[1] <= _PANEL[1] + 8
    return min(max(abs(place[0] - x), abs(place[1] - y)) for x, y in taken) if inside else -1.0


def _name_points(figure: "Figure", points: Sequence[_Point]) -> None:
    write_below(figure, ", ".join(f"{point.number}\u00a0{point.run.name}" for point in points))
