"""Load C++ files of this package: compiled into its wheel, else compiled once for each user."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from hf_sparse.atomic.files import replacing_file
from hf_sparse.native.cache import Cache, Unavailable, opened

logger = logging.getLogger(__name__)

# The environment variable that, set to 0, leaves everything to PyTorch.
SWITCH = "HF_SPARSE_NATIVE"
COMPILERS = ("c++", "g++", "clang++")
# Without contraction to fused multiply-adds, all processors round alike.
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-shared",
    "-fPIC",
    "-pthread",
)
# Link the C++ runtime into the library, since the machine that loads it may have an older one.
_ALONE = ("-s", "-static-libstdc++", "-Wl,--exclude-libs,ALL,--gc-sections")
_SECONDS = 300
_PACKAGE = Path(__file__).parent.parent
# The folder of wheels for the libraries that `prebuild` makes.
PREBUILT = "native/prebuilt"

Result = TypeVar("Result")


class _Once(Generic[Result]):
    """A function that keeps its results; `cache_clear` forgets them."""

    def __init__(self, function: Callable[..., Result]) -> None:
        self._lock, self._cached = Lock(), lru_cache(function)
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Result:
        with self._lock:
            return self._cached(*arguments)

    def cache_clear(self) -> None:
        self._cached.cache_clear()


def once(function: Callable[..., Result]) -> _Once[Result]:
    """Call a function once for the same arguments; threads that call it meanwhile wait for the result."""
    return _Once(function)


def load_library(source: str, *flags: str) -> ctypes.CDLL | None:
    """Return the library of a C++ file of this package; None, after one warning, if it cannot be compiled.

    A library that the wheel does not hold is compiled and kept for this user in `$XDG_CACHE_HOME/hf_sparse`,
    by default `~/.cache/hf_sparse`.
    """
    found = load_first(source, flags)
    return None if found is None else found[1]


@once
def load_first(source: str, *alternatives: tuple[str, ...]) -> tuple[int, ctypes.CDLL] | None:
    """Return the first library, of several sets of flags, that the wheel holds or the compiler makes.

    The number before it is that of the flags. Returns None like `load_library`.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    reasons: list[Exception] = []
    for number, flags in enumerate(alternatives):
        try:
            return number, _prebuilt(source, flags) or _compiled(source, flags)
        except (Unavailable, OSError) as error:
            reasons.append(error)
    logger.warning(
        "hf_sparse/%s is not used, PyTorch does the same several times slower: %s. Install a "
        "C++ compiler, or set %s=0 to be silent about it.",
        source,
        reasons[0],
        SWITCH,
    )
    return None


def prebuild(source: str, *flags: str, into: Path) -> Path:
    """Compile a C++ file for the wheel, into a copy of the package; return the path of the library.

    Raises `Unavailable` if it cannot be compiled.
    """
    path = into / PREBUILT / _name(source, flags)
    command = [*_compiler(), *_FLAGS, *flags, str(_PACKAGE / source)]
    with replacing_file(path) as built:
        try:
            _compile([*command, *_ALONE], built)
        except Unavailable:
            # The linker lacks these options, or the system the static archive.
            _compile(command, built)
    return path


def _prebuilt(source: str, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_PACKAGE / PREBUILT / _name(source, flags)))
    except OSError:
        # The wheel does not hold it, or it was made for another system.
        return None


def _compiled(source: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    command = [*_compiler(), *_FLAGS, *flags]
    name = _name(source, (*command, platform.platform()))
    with opened(_cache()) as cache:
        if (found := _kept(cache, name)) is not None:
            return found
        with cache.locked():
            # Another process may have compiled it while this one waited.
            if (found := _kept(cache, name)) is not None:
                return found
            with cache.folder() as folder:
                _compile([*command, str(_PACKAGE / source)], folder / name)
                cache.keep(folder / name)
            if (found := cache.load(name)) is None:
                raise Unavailable(f"{cache.path / name} is not what was written there a moment ago")
            return found


def _kept(cache: Cache, name: str) -> ctypes.CDLL | None:
    try:
        return cache.load(name)
    except OSError:
        # Compiled by another machine that shares the directory: compile it again.
        return None


def _name(source: str, made_by: tuple[str, ...]) -> str:
    """Return the file name of a library, with a hash of its source, the headers beside it and its flags."""
    file = _PACKAGE / source
    read = [path.read_bytes() for path in (file, *sorted(file.parent.glob("*.h")))]
    known = hashlib.sha256(b"\0".join([*read, *map(str.encode, (*_FLAGS, *made_by))]))
    return f"{file.stem}-{known.hexdigest()[:16]}.so"


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "")) or list(filter(shutil.which, COMPILERS))[:1]
    if not command:
        raise Unavailable(f"no C++ compiler found ({', '.join(COMPILERS)} or $CXX)")
    return command


def _compile(command: list[str], built: Path) -> None:
    try:
        done = subprocess.run(
            [*command, "-o", str(built)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        said = done.stderr.strip()[:300] or f"exit code {done.returncode}"
        raise Unavailable(f"{command[0]} failed: {said}")


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "hf_sparse"
    try:
        return Path.home() / ".cache" / "hf_sparse"
    except RuntimeError as error:
        raise Unavailable("there is neither a home directory nor $XDG_CACHE_HOME") from error
