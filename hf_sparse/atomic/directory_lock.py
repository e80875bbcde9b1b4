"""Locks of the operating system on directories that one process at a time may write to."""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

# The file that is locked in a directory where the directory itself cannot be, as on NFS.
LOCK = ".hf_sparse_lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a directory for the block, against this process and all others.

    The operating system releases the lock when the process ends, however that happens. Raises `ValueError` if
    the directory is locked already. Where nothing can be locked, a warning says so.
    """
    descriptor = _lock(directory)
    try:
        yield
    finally:
        _release(descriptor)


@contextmanager
def locked_if_free(directory: Path, unknown: bool = True) -> Iterator[bool]:
    """Lock a directory for the block unless another process has, or it is gone; give whether that was done.

    `unknown` is given where nothing can be locked.
    """
    try:
        descriptor = _lock(directory)
    except (ValueError, FileNotFoundError):
        yield False
        return
    try:
        yield unknown if descriptor is None else True
    finally:
        _release(descriptor)


def is_locked(directory: Path, unknown: bool = False) -> bool:
    """Return whether a living process has locked a directory; `unknown` where nothing can be locked."""
    with locked_if_free(directory, unknown=not unknown) as free:
        return not free


def _lock(directory: Path) -> int | None:
    for path, flags in ((directory, os.O_RDONLY), (directory / LOCK, os.O_RDWR | os.O_CREAT)):
        if sys.platform == "win32":
            break
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _BUSY:
                raise ValueError(
                    f"{directory} is in use by another run, whose checkpoints would be mixed with those of "
                    "this one; wait for its end, or choose another output_dir"
                ) from None
            continue
        _held.add(descriptor)
        return descriptor
    logger.warning("%s cannot be locked here; make sure that no other run writes to it.", directory)
    return None


def _release(descriptor: int | None) -> None:
    if descriptor is not None and descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


def _let_go() -> None:
    """Close the descriptors that a forked process inherited, so that the lock ends with the run."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_held: set[int] = set()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
