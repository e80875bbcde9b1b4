"""Figures in the width of a phone, and their SVG for the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import inf, isfinite, nan
from textwrap import wrap
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from hf_sparse.report.colors import COLORS, INK, LINE, MUTED
from hf_sparse.report.pictures import LITERAL, hide_frame, new_figure, printable
from hf_sparse.runs.history import Log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches, points: on a screen of 360 pixels a figure is 336 pixels wide, and letters exceed 11 pixels.
_WIDTH, _HEIGHT = 4.5, 3.0
TEXT, _TITLE = 11, 12.5
# Letters in a line of a title, and of a note below.
_TITLE_LINE, _NOTE_LINE = 38, 46
MOST_POINTS = 400
# Values that are further apart than this factor are drawn on a logarithmic axis.
_WIDE = 30
_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Picture:
    """A figure of the page: the name of its file, its title, and a sentence that explains it."""

    name: str
    title: str
    caption: str
    figure: "Figure"


def new_panels(
    title: str, count: int = 1, height: float = _HEIGHT, shared: bool = True
) -> tuple["Figure", list["Axes"]]:
    """Return a figure with a title and panels below each other; `shared` panels have one horizontal axis."""
    figure = new_figure(_WIDTH, height)
    entitle(figure, title)
    panels = list(figure.subplots(count, 1, sharex=shared, squeeze=False)[:, 0])
    for axes in panels:
        hide_frame(axes, "top", "right")
        axes.grid(color=LINE.light, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=TEXT, labelcolor=MUTED.light, color=LINE.light)
        for spine in axes.spines.values():
            spine.set_color(LINE.light)
    return figure, panels


def entitle(figure: "Figure", title: str) -> int:
    """Write a title above a figure, replacing an earlier one; return its number of lines."""
    lines = wrap(printable(title), _TITLE_LINE)
    figure.suptitle(
        "\n".join(lines),
        fontsize=_TITLE,
        x=0.01,
        horizontalalignment="left",
        fontweight="bold",
        color=INK.light,
        **LITERAL,
    )
    return len(lines)


def write_below(figure: "Figure", text: str) -> None:
    """Write a note under a figure, such as the runs that its numbers stand for."""
    figure.supxlabel("\n".join(wrap(printable(text), _NOTE_LINE)), fontsize=TEXT, color=INK.light, **LITERAL)


def name_axes(axes: "Axes", x: str | None = None, y: str | None = None) -> None:
    """Label axes; dollar signs in names are not formulas."""
    if x is not None:
        axes.set_xlabel(printable(x), fontsize=TEXT, color=INK.light, **LITERAL)
    if y is not None:
        axes.set_ylabel(printable(y), fontsize=TEXT, color=INK.light, **LITERAL)


def along_steps(axes: "Axes", last: float) -> None:
    """Prepare the horizontal axis for the steps of a run, with few numbers for lack of room."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(last, 1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    name_axes(axes, x="optimizer step")


def thin_out(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """Return a series of at most about `most` points: the smallest and the largest value of every stretch.

    A value that is not finite becomes a gap.
    """
    if len(steps) <= most:
        return list(steps), [value if isfinite(value) else nan for value in values]
    chosen: set[int] = {0, len(steps) - 1}
    edges = [len(steps) * place // (most // 2) for place in range(most // 2 + 1)]
    for begin, end in zip(edges, edges[1:], strict=False):
        stretch = range(begin, end)
        chosen.add(min(stretch, key=lambda place: values[place] if isfinite(values[place]) else inf))
        chosen.add(max(stretch, key=lambda place: values[place] if isfinite(values[place]) else -inf))
    return thin_out(
        [steps[place] for place in sorted(chosen)], [values[place] for place in sorted(chosen)], most + 2
    )


def average(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS // 2
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return last step, mean, smallest and largest value of `most` stretches of a series.

    Values that are not finite are left out; a stretch of such values alone is a gap.
    """
    edges = [len(steps) * place // most for place in range(most + 1)]
    found: tuple[list[float], list[float], list[float], list[float]] = ([], [], [], [])
    for begin, end in zip(edges, edges[1:], strict=False):
        finite = [value for value in values[begin:end] if isfinite(value)] or [nan]
        summary = (steps[end - 1], sum(finite) / len(finite), min(finite), max(finite))
        for column, number in zip(found, summary, strict=True):
            column.append(number)
    return found


def series(log: Log, key: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
    """Return the steps and the values of a key of the log, thinned out."""
    rows = [row for row in log if key in row]
    return thin_out([row["step"] for row in rows], [factor * row[key] for row in rows])


def has_numbers(log: Log, key: str) -> bool:
    """Return whether a finite number was logged under a key."""
    return any(isfinite(row[key]) for row in log if key in row)


def is_wide(values: Sequence[float]) -> bool:
    """Return whether values are so far apart that they need a logarithmic axis."""
    finite = [value for value in values if isfinite(value)]
    return min(finite) > 0 and max(finite) > _WIDE * min(finite)


def to_logarithms(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def to_svg(picture: Picture) -> str:
    """Return a figure as an SVG element of the page.

    Its colors are variables of the style sheet, its identifiers are unique on the page, and its letters are
    text in the font of the page.
    """
    from matplotlib import rc_context

    drawn = BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        picture.figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(drawn.getvalue())
    for name in ("width", "height"):
        del root.attrib[name]
    _tidy(root, picture.name)
    title = ElementTree.Element(f"{{{_SVG}}}title")
    title.text = printable(f"{picture.title}. {picture.caption}")
    root.insert(0, title)
    root.attrib |= {"role": "img", "aria-label": printable(picture.title)}
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(root: ElementTree.Element, key: str) -> None:
    """Remove metadata and unused identifiers, and put a key before the other identifiers."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        if element.tag != f"{{{_SVG}}}text" and not (element.text or "").strip():
            element.text = None
        element.tail = None
        if _LINK in element.attrib:
            element.attrib["href"] = element.attrib.pop(_LINK)
        if "d" in element.attrib:
            # Hundredths of a pixel are precise enough.
            element.attrib["d"] = re.sub(r"(\.\d\d)\d+", r"\1", element.attrib["d"])
        if "style" in element.attrib:
            element.attrib["style"] = _own_style(element.attrib["style"])
    named = {found for element in root.iter() for value in element.attrib.values() for found in _names(value)}
    for element in root.iter():
        if (own := element.attrib.pop("id", None)) in named:
            element.attrib["id"] = own
        for name, value in element.attrib.items():
            for found in _names(value) if name != "id" else [value]:
                element.attrib[name] = value.replace(found, f"{key}-{found}")


def _names(value: str) -> list[str]:
    """Return the identifiers that an attribute refers to."""
    return [found[1] or found[2] for found in re.finditer(r"^#(.+)$|url\(#([^)]+)\)", value)]


def _own_style(style: str) -> str:
    """Replace the font and the colors by those of the page."""
    style = re.sub(r"(?<=font: )([^;]*?[\d.]+px)[^;]*", r"\1 inherit", style)
    style = re.sub(r"font-family: [^;]*;?", "", style)
    for color in COLORS:
        style = style.replace(color.light, color.variable)
    return style
