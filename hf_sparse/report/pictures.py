"""Shared by all figures: colors, titles, and the writing of PNG files."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_sparse.atomic.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ZEROS, RATE, GRAY, DENSE = "#1f6f8b", "#d9822b", "#666666", "#9aa5ad"
# For texts with names in them, whose dollar signs must not begin formulas.
LITERAL: dict[str, Any] = {"parse_math": False}


def write_png(figure: "Figure", path: Path) -> None:
    """Write a figure, whole or not at all; raise `ValueError` if the name does not end in .png."""
    require_png(path)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomically(path, picture.getvalue())


def require_png(path: Path) -> None:
    """Raise `ValueError` if a name does not end in .png, or is that of a directory."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise ValueError(f"{path} cannot be the picture; name a file that ends in .png")


def new_figure(width: float, height: float, title: str = "", size: float = 13) -> "Figure":
    """Return an empty figure, in inches, under a title of `size` points at its left.

    Raises `ValueError` if matplotlib is not installed.
    """
    try:
        # A Figure made without pyplot needs no display and leaves matplotlib's global state alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("pictures need matplotlib; run pip install hf_sparse[demo]") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(
            printable(title),
            fontsize=size,
            x=0.01,
            horizontalalignment="left",
            fontweight="bold",
            **LITERAL,
        )
    return figure


def printable(text: str) -> str:
    """Return a name whose control characters and undecodable bytes are replaced."""
    return "".join(letter if letter.isprintable() or letter in "\n\xa0" else "\ufffd" for letter in text)


def hide_frame(axes: "Axes", *sides: str) -> None:
    """Hide lines around the drawing."""
    for side in sides:
        axes.spines[side].set_visible(False)
