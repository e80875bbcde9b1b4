"""Progress on the standard error: live on a terminal, elsewhere one line after each long part."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

Item = TypeVar("Item")

# Seconds. A part that took longer is reported on one line where the standard error is not a terminal.
_LONG = 60.0


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show what the command is doing, and keep the libraries below from printing."""
    from hf_sparse.demo.progress import silence

    console, began = Console(stderr=True), time.monotonic()
    with silence():
        if console.is_terminal:
            with console.status(f"{what} ..."):
                yield
        else:
            yield
            _say_if_long(console, what, began)


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yield the items and show a bar with how many have been taken."""
    from rich.progress import track

    console, began = Console(stderr=True), time.monotonic()
    yield from track(items, what, console=console, transient=True, disable=not console.is_terminal)
    if not console.is_terminal:
        _say_if_long(console, what, began)


def _say_if_long(console: Console, what: str, began: float) -> None:
    """Print a line, flushed at once, if a part took long."""
    if (seconds := time.monotonic() - began) >= _LONG:
        console.print(f"{what}: done in {seconds:.0f} s", markup=False, highlight=False)
