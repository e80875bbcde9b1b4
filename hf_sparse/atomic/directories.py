"""Directories that a crash cannot leave half written, and their recovery after one."""

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_sparse.atomic.directory_lock import is_locked, locked
from hf_sparse.atomic.files import sync, sync_all

logger = logging.getLogger(__name__)


def require_free(directory: Path, is_own: Callable[[Path], bool] | None = None) -> None:
    """Raise `ValueError` if a directory exists, is not empty, and is not recognized by `is_own`.

    Without `is_own` nothing is recognized.
    """
    if not directory.is_file() and not (directory.is_dir() and any(directory.iterdir())):
        return
    if is_own is None:
        raise ValueError(
            f"{directory} is not empty, and what it holds is not replaced; choose another directory, or "
            "delete this one"
        )
    if directory.is_file() or not is_own(directory):
        raise ValueError(
            f"{directory} holds something else, which would be lost; choose a directory that is new or empty"
        )


@contextmanager
def replacing_directory(directory: Path, is_own: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Give an empty directory to fill, which takes the place of `directory` when the block ends.

    If the block fails, nothing has changed. If the process is killed, the next call for this directory
    removes what it left, and `recover_directory` makes sure that the old or the new directory is there.
    Raises as `require_free` does.
    """
    directory = directory.resolve()
    recover_directory(directory)
    require_free(directory, is_own)
    directory.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in _stagings(directory):
        if not is_locked(abandoned, unknown=True):
            shutil.rmtree(abandoned, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=_staging_prefix(directory), dir=directory.parent))
    staged = staging / "new"
    try:
        with locked(staging):
            staged.mkdir()
            yield staged
            replace_directory(staged, directory)
    finally:
        # A directory that could neither be replaced nor put back waits for `recover_directory`.
        if not _replaced(staged, directory).exists() or directory.exists():
            shutil.rmtree(staging, ignore_errors=True)


def recover_directory(directory: Path) -> None:
    """Put back a directory that was moved aside by a process which was killed before the new one stood.

    To be called before the directory is read or written; costs nothing where it exists.
    """
    if directory.exists():
        return
    directory = directory.resolve()
    for staging in _stagings(directory):
        if not is_locked(staging):
            put_back(staging / (_REPLACED + directory.name), directory.parent)


def replace_directory(staged: Path, final: Path) -> None:
    """Move a finished directory to its place, replacing one that is there already.

    A directory that is replaced waits beside the staged one until the new one stands. If the process dies in
    between, `put_back` restores it.
    """
    sync_all(staged)
    replaced = _replaced(staged, final)
    if final.exists():
        os.rename(final, replaced)
    try:
        os.rename(staged, final)
    except OSError:
        put_back(replaced, final.parent)
        raise
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def put_back(replaced: Path, home: Path) -> None:
    """Move a directory that was to be replaced back to its place in `home`, unless one stands there."""
    final = home / replaced.name.removeprefix(_REPLACED)
    if replaced.exists() and not final.exists():
        os.rename(replaced, final)
        sync(home)


def replaced_in(staging: Path) -> list[Path]:
    """Return the directories that were being replaced from a staging folder, or from a folder in it."""
    return [*staging.glob(f"{_REPLACED}*"), *staging.glob(f"*/{_REPLACED}*")]


def discard_directory(directory: Path, staging: Path) -> None:
    """Delete a directory, of which nothing is left under its name if the process dies meanwhile."""
    staging.mkdir(parents=True, exist_ok=True)
    doomed = staging / (_DISCARDED + directory.name)
    try:
        os.rename(directory, doomed)
    except OSError as error:
        logger.warning("%s is one more than save_total_limit, and cannot be deleted: %s", directory, error)
        return
    sync(directory.parent)
    shutil.rmtree(doomed, ignore_errors=True)
    remove_if_empty(staging)
    remove_if_empty(staging.parent)


def remove_if_empty(directory: Path) -> None:
    """Remove a directory if it exists and is empty; another process may do the same, or fill it."""
    try:
        directory.rmdir()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno not in _FILLED:
            raise


# POSIX allows either.
_FILLED = (errno.ENOTEMPTY, errno.EEXIST)


def require_writable(directory: str | Path) -> None:
    """Raise `ValueError` unless files can be made in a directory, which is made if it does not exist."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".writable"):
            pass
    except OSError as error:
        raise ValueError(
            f"output directory {directory} cannot be written ({error.strerror}); choose another output_dir"
        ) from error


def _replaced(staged: Path, final: Path) -> Path:
    return staged.with_name(_REPLACED + final.name)


def _staging_prefix(directory: Path) -> str:
    return f".{directory.name}.saving-"


def _stagings(directory: Path) -> list[Path]:
    """Return the folders beside a directory in which a replacement is, or was, being written."""
    own = re.compile(re.escape(_staging_prefix(directory)) + r"\w{8}")
    if not directory.parent.is_dir():
        return []
    found = (entry for entry in directory.parent.iterdir() if own.fullmatch(entry.name))
    return sorted(entry for entry in found if entry.is_dir() and not entry.is_symlink())


_REPLACED, _DISCARDED = "replaced-", "discarded-"
