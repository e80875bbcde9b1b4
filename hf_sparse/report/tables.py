"""Tables for the terminal, and how they write sizes and times."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.markup import escape
from rich.table import Table

from hf_sparse.units import percent, size


@dataclass(frozen=True)
class ModelRow:
    """One model of a comparison; accuracy and sparsity are in [0, 1]."""

    name: str
    accuracy: float
    sparsity: float
    bytes: int
    seconds: float

    def __post_init__(self) -> None:
        for name in ("accuracy", "sparsity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of {self.name} must be in [0, 1], got {getattr(self, name)}")


def narrow_table(first: str, *others: str, numbered: bool = False) -> Table:
    """Return a table with two spaces between columns; those after the first hold numbers.

    `numbered` is true if the first holds numbers too.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, justify="right" if numbered else "left", vertical="bottom", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    return table


def model_table(groups: Sequence[tuple[str, Sequence[ModelRow]]], caption: str = "") -> Table:
    """Return one table of groups of models; the name of a group says what accuracy means in it."""
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
    return [percent(row.accuracy), percent(row.sparsity), size(row.bytes), duration(row.seconds)]


def duration(seconds: float) -> str:
    """Write seconds as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
