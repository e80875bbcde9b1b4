"""Compiles a C++ file of this room once for every user, and loads it."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

# Set to 0 for PyTorch alone.
SWITCH = "HF_SPARSE_NATIVE"
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_SOURCES = Path(__file__).parent


class Unavailable(Exception):
    """Why a file can not be compiled or loaded."""


@lru_cache
def load_library(name: str) -> ctypes.CDLL | None:
    """Return `{name}.cpp` compiled, or None, with one warning that says why, where that is not possible.

    What is compiled stays in `$XDG_CACHE_HOME/hf_sparse`, by default `~/.cache/hf_sparse`.
    """
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        return ctypes.CDLL(str(_compiled(name)))
    except (Unavailable, OSError) as error:
        logger.warning("%s is done in PyTorch alone, several times slower: %s", name, error)
        return None


def _compiled(name: str) -> Path:
    source = _SOURCES / f"{name}.cpp"
    content = source.read_bytes()
    known = hashlib.sha256(b"\0".join([content, *map(str.encode, (*_FLAGS, platform.platform()))]))
    path = _cache() / f"{name}-{known.hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _compile(source, path)
    return path


def _compile(source: Path, path: Path) -> None:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise Unavailable(f"there is no C++ compiler ({', '.join(_COMPILERS)} or $CXX)")
    # Several processes may compile at once; each moves a whole file into place.
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        built = Path(directory) / path.name
        command = [*compiler.split(), *_FLAGS, str(source), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise Unavailable(f"{compiler} failed on {source.name}: {done.stderr.strip()[:300]}")
        os.replace(built, path)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hf_sparse"
