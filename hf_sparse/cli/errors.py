"""Errors in one red sentence, and exit codes.

0: done. 1: refused or failed, with a sentence that says why. 2: wrong command line, which typer finds. 3: the
check failed. 130: interrupted.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from traceback import extract_tb

import typer
from rich.console import Console

FAILED, WANTING, INTERRUPTED = 1, 3, 130

# Errors of the machine, the data or the settings.
_EXPECTED = (ValueError, OSError, ImportError, MemoryError)
_PACKAGE = Path(__file__).parents[1]


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Print an error in one sentence and exit with its code; with `debug` let it through.

    Nothing is printed when the reader of the output has closed it, as `head` does.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        _say("interrupted; nothing is left half written, run the same command again")
        raise typer.Exit(INTERRUPTED) from error
    except Exception as error:
        if debug:
            raise
        _say(_sentence(error))
        raise typer.Exit(FAILED) from error


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `ValueError` if a package of an extra is not installed."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(f'{what} needs {package}; run pip install "hf_sparse[{extra}]"') from error


def _say(sentence: str) -> None:
    Console(stderr=True).print(
        f"hf-sparse: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True
    )


def _sentence(error: Exception) -> str:
    kind, home = type(error).__name__, type(error).__module__.split(".")[0]
    first, more = _first_line(error)
    if not first:
        first = kind
    elif home not in ("builtins", "hf_sparse"):
        first = f"{kind}: {first}"
    if _is_fault(error):
        said = first if first == kind else f"{kind}: {first}"
        return f"{said}; this is a fault of hf_sparse, report it with what hf-sparse --debug shows"
    return f"{first} (more with hf-sparse --debug)" if more else first


def _first_line(error: Exception) -> tuple[str, bool]:
    """Return the first line with text, and whether more follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Messages of the Hub begin with the HTTP status and end with the reason.
    if len(lines) > 1 and re.match(r"\d{3} (Client|Server) Error", lines[0]):
        del lines[0]
    if (reason := getattr(error, "server_message", None)) and lines and reason not in lines[0]:
        lines[0] = f"{lines[0].rstrip('.')}: {reason.splitlines()[0]}"
    return (lines[0], len(lines) > 1) if lines else ("", False)


def _is_fault(error: Exception) -> bool:
    """Return whether an error is a bug: raised by Python itself rather than by a `raise` of this package."""
    if isinstance(error, ImportError) and (error.name or "").startswith("hf_sparse"):
        return True
    if isinstance(error, _EXPECTED) or type(error).__module__ != "builtins":
        return False
    raised = extract_tb(error.__traceback__)[-1]
    deliberate = Path(raised.filename).is_relative_to(_PACKAGE) and (raised.line or "").startswith("raise ")
    # PyTorch raises a plain RuntimeError when memory runs out.
    return not deliberate and "allocate memory" not in str(error)
