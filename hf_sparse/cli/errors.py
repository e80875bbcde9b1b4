"""Errors in one red sentence, and exit codes.

0 is done; 1 refused or failed, and a sentence says why; 2 a wrong command line, which typer finds; 3 checked
and found wanting; 130 interrupted.
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

# Of the machine, the data, the settings.
_EXPECTED = (ValueError, OSError, ImportError, MemoryError)
_PACKAGE = Path(__file__).parents[1]


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Say in one sentence what went wrong, and exit with the code for it; with `debug` let errors through.

    Nothing is said where whatever read the output has gone, as `head` does.
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
    """Return the first line that says something, and whether there are more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The Hub begins with the number of its answer, and ends with its reason.
    if len(lines) > 1 and re.match(r"\d{3} (Client|Server) Error", lines[0]):
        del lines[0]
    if (reason := getattr(error, "server_message", None)) and lines and reason not in lines[0]:
        lines[0] = f"{lines[0].rstrip('.')}: {reason.splitlines()[0]}"
    return (lines[0], len(lines) > 1) if lines else ("", False)


def _is_fault(error: Exception) -> bool:
    """Say whether an error is one of programming: Python's own, and not raised to tell the user something."""
    if isinstance(error, ImportError) and (error.name or "").startswith("hf_sparse"):
        return True
    if isinstance(error, _EXPECTED) or type(error).__module__ != "builtins":
        return False
    raised = extract_tb(error.__traceback__)[-1]
    ours = Path(raised.filename).is_relative_to(_PACKAGE) and (raised.line or "").startswith("raise ")
    # PyTorch has no class for it.
    return not ours and "allocate memory" not in str(error)
