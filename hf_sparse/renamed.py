"""Old names that keep working: each use gives a `FutureWarning` that names the new one."""

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

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


class _OldModule(ModuleType):
    """A module that has moved; its names are looked up at their new places."""

    def __init__(self, name: str, new_names: Mapping[str, str]) -> None:
        super().__init__(name, "Moved; see the warnings of its names.")
        self.__dict__["_new_names"] = dict(new_names)

    def __getattr__(self, name: str) -> Any:
        if name not in self._new_names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        new = self._new_names[name]
        warn_renamed(f"{self.__name__}.{name}", new)
        package, _, own = new.rpartition(".")
        return getattr(resolve_name(package), own)


def renamed_module(old: str, new_names: Mapping[str, str]) -> None:
    """Keep a documented module importable under the name it had.

    Args:
        old: Its dotted name. The package above it has to call this when it is imported.
        new_names: The dotted new name of everything that was documented there.
    """
    sys.modules[old] = _OldModule(old, new_names)
