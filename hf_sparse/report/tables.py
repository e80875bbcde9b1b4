"""Measured models side by side in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class ModelRow:
    """One model of a comparison; accuracy and sparsity are shares in [0, 1]."""

    name: str
    accuracy: float
    sparsity: float
    bytes: int
    seconds: float

    def __post_init__(self) -> None:
        for name in ("accuracy", "sparsity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of {self.name} is a share in [0, 1], got {getattr(self, name)}")


def narrow_table(first: str, *others: str, numbered: bool = False) -> Table:
    """Make a table with two spaces between its columns; those after the first hold numbers.

    `numbered`: so does the first.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, justify="right" if numbered else "left", vertical="bottom", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    return table


def model_table(groups: Sequence[tuple[str, Sequence[ModelRow]]], caption: str = "") -> Table:
    """Make one table of groups of models, each under its own name for what accuracy means in it."""
    table = Table(box=box.SIMPLE_HEAD, caption=caption or None, caption_justify="left", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("accuracy", "zeros", "file", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for heading, rows in groups:
        table.add_row(f"[bold]{escape(heading)}[/bold]")
        for row in rows:
            table.add_row(f"  {escape(row.name)}", *_cells(row))
        table.add_section()
    return table


def _cells(row: ModelRow) -> list[str]:
    return [f"{row.accuracy:.1%}", f"{row.sparsity:.1%}", size(row.bytes), duration(row.seconds)]


def size(count: float) -> str:
    """Write a number of bytes in decimal megabytes, or kilobytes if few, as a file manager shows it."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Write a length of time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
