"""Loads C++ files of this package: compiled into its wheel, else once for every user."""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache, wraps
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from hf_sparse.atomic.files import replacing_file
from hf_sparse.native.cache import Cache, Unavailable, opened

logger = logging.getLogger(__name__)

# Set to 0 for PyTorch alone.
SWITCH = "HF_SPARSE_NATIVE"
COMPILERS = ("c++", "g++", "clang++")
# Without contraction all processors round alike.
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
# Lets a library run where the C++ runtime is another than that of the machine that compiled it.
_ALONE = ("-s", "-static-libstdc++", "-Wl,--exclude-libs,ALL,--gc-sections")
_SECONDS = 300
_PACKAGE = Path(__file__).parent.parent
# Where wheels have what `prebuild` made of this package.
PREBUILT = "native/prebuilt"

Result = TypeVar("Result")


def once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Call a function once for the same arguments; threads that come meanwhile wait for what it returns."""
    lock, cached = Lock(), lru_cache(function)

    @wraps(function)
    def call(*arguments: Any) -> Result:
        with lock:
            return cached(*arguments)

    call.cache_clear = cached.cache_clear
    return call


def load_library(source: str, *flags: str) -> ctypes.CDLL | None:
    """Return a file of this package compiled, or None, with one warning, where that is not possible.

    What the wheel has not brought is compiled, and stays in `$XDG_CACHE_HOME/hf_sparse`, by default
    `~/.cache/hf_sparse`, for this user.
    """
    found = load_first(source, flags)
    return None if found is None else found[1]


@once
def load_first(source: str, *alternatives: tuple[str, ...]) -> tuple[int, ctypes.CDLL] | None:
    """Do the same for the first of several sets of flags that this compiler, or the wheel, has; say which."""
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
    """Compile a file of this package for its wheel, into a copy of the package; return the library.

    Raises `Unavailable` where it cannot be compiled.
    """
    path = into / PREBUILT / _name(source, flags)
    command = [*_compiler(), *_FLAGS, *flags, str(_PACKAGE / source)]
    with replacing_file(path) as built:
        try:
            _compile([*command, *_ALONE], built)
        except Unavailable:
            # Not every linker can, and not every system has the archive that it takes.
            _compile(command, built)
    return path


def _prebuilt(source: str, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_PACKAGE / PREBUILT / _name(source, flags)))
    except OSError:
        # There is none, or it needs another system than this one.
        return None


def _compiled(source: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    command = [*_compiler(), *_FLAGS, *flags]
    name = _name(source, (*command, platform.platform()))
    with opened(_cache()) as cache:
        if (found := _kept(cache, name)) is not None:
            return found
        with cache.locked():
            # Another process may have made it while this one waited.
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
        # Of another machine that shares the directory: made anew.
        return None


def _name(source: str, made_by: tuple[str, ...]) -> str:
    """Return the name of a library: another one if its source, a header beside it or what made it changes."""
    file = _PACKAGE / source
    read = [path.read_bytes() for path in (file, *sorted(file.parent.glob("*.h")))]
    known = hashlib.sha256(b"\0".join([*read, *map(str.encode, (*_FLAGS, *made_by))]))
    return f"{file.stem}-{known.hexdigest()[:16]}.so"


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "")) or list(filter(shutil.which, COMPILERS))[:1]
    if not command:
        raise Unavailable(f"there is no C++ compiler ({', '.join(COMPILERS)} or $CXX)")
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
