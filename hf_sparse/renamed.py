"""Old names that keep working: each use gives a `FutureWarning` that names the new one."""

import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def renamed_keywords(**new_names: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Return a decorator that accepts the old keywords of a function, as `@renamed_keywords(old="new")`.

    Args:
        new_names: The new name of each old keyword.

    Returns:
        A decorator. The decorated function keeps its signature, which has the new names alone. It raises
        `TypeError` when a call gives the same value under both names.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(
                        f"{function.__name__}() got both {new} and {old}, its old name; drop {old}"
                    )
                warn_renamed(f"{function.__name__}({old}=...)", f"{new}=...")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def warn_renamed(old: str, new: str) -> None:
    """Warn that an old name was used and name the new one, at the line outside of hf_sparse that used it.

    Args:
        old: The old name, as the caller wrote it.
        new: What to write instead.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "hf_sparse":
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{old} is an old name; write {new}", FutureWarning, stacklevel=level)
