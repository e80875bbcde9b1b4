"""Errors in one red sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import typer
from rich.console import Console

# Of the machine, the data, the settings; anything else is a fault of the program, whose traceback is wanted.
_EXPECTED = (ValueError, OSError, RuntimeError, ImportError)


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Print the first line of an expected error and exit with 1."""
    try:
        yield
    except _EXPECTED as error:
        if debug:
            raise
        first, *more = str(error).strip().splitlines() or [type(error).__name__]
        hint = " (more with hf-sparse --debug)" if more else ""
        message = f"hf-sparse: {first}{hint}"
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `ValueError` if a package of an extra is not installed."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(f'{what} needs {package}; run pip install "hf_sparse[{extra}]"') from error
