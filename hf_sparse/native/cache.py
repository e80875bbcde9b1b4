"""The directory of compiled libraries, which belongs to one user and holds each library whole or not at all.

Its libraries run as this user. So each is checked before it is loaded: no other user can have written it, and
it has the hash that was stored beside it. A library that was cut short would crash every process that reads
its pages.
"""

import ctypes
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

# Older folders were left by killed processes; no compilation takes so long.
_LEFT_SECONDS = 3600.0
_SUM = ".sha256"
# The loader takes a path that it has seen for the same library, even if the descriptor of that number is
# another file now. So every path is made different.
_NAMES = count()


class Unavailable(Exception):
    """A library cannot be compiled or loaded, with the reason."""


class Cache:
    """A directory of libraries, held open, so that no other directory can be put in its place."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def load(self, name: str) -> ctypes.CDLL | None:
        """Return a library; None if it is missing, damaged, or may be written by another user.

        Raises `OSError` for a library of another machine that shares the directory.
        """
        with ExitStack() as stack:
            try:
                library, known = (stack.enter_context(self._opened(name + end)) for end in ("", _SUM))
                whole = _digest(library) == os.read(known, 1 << 10)
            except (OSError, Unavailable):
                return None
            return ctypes.CDLL(self._named(library, name)) if whole else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time compile; the others wait and find what it has made."""
        from fcntl import LOCK_EX, LOCK_UN, flock

        # On file systems without locks every process compiles, and the last one's library stays.
        with suppress(OSError):
            flock(self._descriptor, LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                flock(self._descriptor, LOCK_UN)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a folder to compile in; delete those that killed processes left behind."""
        self._sweep()
        name = f".{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=self._descriptor)
        os.chmod(name, 0o700, dir_fd=self._descriptor)
        try:
            yield self.path / name
        finally:
            shutil.rmtree(name, ignore_errors=True, dir_fd=self._descriptor)

    def keep(self, built: Path) -> None:
        """Move a library out of such a folder, whole, with its hash beside it."""
        inner = f"{built.parent.name}/{built.name}"
        library = os.open(inner, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._descriptor)
        try:
            os.fchmod(library, 0o700)
            self._write(inner + _SUM, _digest(library))
            os.fsync(library)
        finally:
            os.close(library)
        for end in ("", _SUM):
            places = {"src_dir_fd": self._descriptor, "dst_dir_fd": self._descriptor}
            os.replace(inner + end, built.name + end, **places)
        os.fsync(self._descriptor)

    def _write(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            os.fchmod(descriptor, 0o600)
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        # O_NONBLOCK: opening a pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=self._descriptor)
        try:
            status = os.fstat(descriptor)
            _require_own(self.path / name, status)
            if not stat.S_ISREG(status.st_mode):
                raise Unavailable(f"{self.path / name} is not a regular file")
            yield descriptor
        finally:
            os.close(descriptor)

    def _named(self, descriptor: int, name: str) -> str:
        """Return a path to the open file that no library was loaded by before."""
        if not os.path.exists(f"/proc/self/fd/{descriptor}"):
            return str(self.path / name)
        return f"/proc/self/{'./' * next(_NAMES)}fd/{descriptor}"

    def _sweep(self) -> None:
        for name in os.listdir(self._descriptor):
            try:
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode) and status.st_mtime < time.time() - _LEFT_SECONDS:
                shutil.rmtree(name, ignore_errors=True, dir_fd=self._descriptor)


@contextmanager
def opened(path: Path) -> Iterator[Cache]:
    """Open a directory of libraries; make it first if it is missing.

    Raises `Unavailable` for a link, a directory of another user, and one that others may write to, `OSError`
    if it cannot be made or read.
    """
    if not hasattr(os, "geteuid"):
        raise Unavailable("this system does not say whose a file is")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
        # The umask may have removed bits.
        os.chmod(path, 0o700)
    except FileExistsError:
        if path.is_symlink():
            raise Unavailable(f"{path} is a link, which is not followed; delete it") from None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        _require_own(path, status)
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
        yield Cache(path, descriptor)
    finally:
        os.close(descriptor)


def _require_own(path: Path, status: os.stat_result) -> None:
    """Raise `Unavailable` for files that another user may have written."""
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unavailable(f"{path} is another user's, or others may write to it; delete it, or say chmod 700")


def _digest(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()
