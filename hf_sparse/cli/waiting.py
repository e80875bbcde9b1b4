"""What is shown on the standard error while a command works; where that is no terminal, what took long."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

Item = TypeVar("Item")

# Seconds after which a log or a pipe is told, as each part ends, that something is going on.
_LONG = 60.0


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what is being done, with libraries kept quiet."""
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
    """Yield items with a bar of how many have been taken."""
    from rich.progress import track

    console, began = Console(stderr=True), time.monotonic()
    yield from track(items, what, console=console, transient=True, disable=not console.is_terminal)
    if not console.is_terminal:
        _say_if_long(console, what, began)


def _say_if_long(console: Console, what: str, began: float) -> None:
    """Print that something is done, on a line of its own that is written out at once."""
    if (seconds := time.monotonic() - began) >= _LONG:
        console.print(f"{what}: done in {seconds:.0f} s", markup=False, highlight=False)
