"""What is shown on the standard error while a command works; nothing where that is no terminal."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

Item = TypeVar("Item")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what is being done, with libraries kept quiet."""
    from hf_sparse.demo.progress import silence

    console = Console(stderr=True)
    with silence():
        if console.is_terminal:
            with console.status(f"{what} ..."):
                yield
        else:
            yield


def counted(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yield items with a bar of how many have been taken."""
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, what, console=console, transient=True, disable=not console.is_terminal)
