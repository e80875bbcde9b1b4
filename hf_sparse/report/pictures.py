"""What all pictures share: colours, and how they are written."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from hf_sparse.atomic.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ZEROS, RATE, GREY, DENSE = "#1f6f8b", "#d9822b", "#666666", "#9aa5ad"
# For texts with names in them: a dollar sign begins no formula.
LITERAL = {"parse_math": False}


def write_png(figure: "Figure", path: Path) -> None:
    """Write a picture, whole or not at all; raise `ValueError` if its name is none of a PNG file."""
    require_png(path)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomically(path, picture.getvalue())


def require_png(path: Path) -> None:
    """Raise `ValueError` if a name is none of a PNG file."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise ValueError(f"{path} cannot be the picture; name a file that ends in .png")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty picture of so many inches; raise `ValueError` if matplotlib is not installed."""
    try:
        # A Figure of its own draws without a display and leaves matplotlib's global state alone.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("pictures need matplotlib; run pip install hf_sparse[demo]") from error
    return Figure(figsize=(width, height), layout="constrained")


def printable(text: str) -> str:
    """Return a name with what cannot be drawn in it replaced: control characters, undecodable bytes."""
    return "".join(letter if letter.isprintable() or letter in "\n\xa0" else "\ufffd" for letter in text)


def hide_frame(axes: "Axes", *sides: str) -> None:
    """Take away lines around the drawing."""
    for side in sides:
        axes.spines[side].set_visible(False)
