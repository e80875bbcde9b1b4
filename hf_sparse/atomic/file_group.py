"""Files of one directory that change together: all of them old, all new, or completed by the next process."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sparse.atomic.directories import put_back, remove_if_empty, replaced_in
from hf_sparse.atomic.directory_lock import is_locked, locked
from hf_sparse.atomic.files import sync, sync_all, write_atomically

# Trainer leaves names with an underscore out of what it pushes to the Hub.
STAGING = "_saving"


def _nothing(directory: Path, names: Collection[str]) -> None:
    """Do nothing after the last file."""


@dataclass(frozen=True)
class FileGroup:
    """Which files belong together, and how they take their places.

    Args:
        kind: Begins the names of the folders that such files are staged in.
        order: Sort key of the files' names: they are moved in this order. An earlier version of the last of
            several is deleted before the first move, so that it is there only if all others are.
        updated: Files that are copied to the staging folder first, to be updated there.
        finish: Called with the directory and the names of all files after the last move.
    """

    kind: str
    order: Callable[[str], tuple[Any, ...]]
    updated: tuple[str, ...] = ()
    finish: Callable[[Path, Collection[str]], None] = _nothing


@contextmanager
def staged_files(directory: Path, group: FileGroup) -> Iterator[Path]:
    """Give an empty directory for files that take their places in `directory` when the block ends.

    Other files there stay. If the block fails, nothing has changed. If the process dies before all files are
    in their places, the next writer of such files, `recover_files` or `recover_directories` moves the rest.
    """
    recover_files(directory, group)
    staging = directory / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=group.kind, dir=staging))
    staged, ready = own / "new", own / _READY
    try:
        with locked(own):
            staged.mkdir()
            for name in group.updated:
                if (directory / name).is_file():
                    shutil.copy2(directory / name, staged)
            yield staged
            names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
            write_atomically(own / _NAMES, "\n".join(sorted(names, key=group.order)).encode())
            sync_all(staged)
            os.rename(staged, ready)
            sync(own)
            _move_into(own, directory, group)
    finally:
        # Files that could not all be moved are whole, and wait for the next attempt.
        if not ready.exists():
            shutil.rmtree(own, ignore_errors=True)
            remove_if_empty(staging)


def recover_files(directory: Path, group: FileGroup) -> None:
    """Finish what processes that died have begun to write of a group; incomplete files are deleted."""
    staging = directory / STAGING
    for own in staging.glob(f"{group.kind}*"):
        if not is_locked(own, unknown=True):
            _finish_or_delete(own, directory, group)
    remove_if_empty(staging)


def recover_directories(staging: Path, home: Path, *groups: FileGroup) -> None:
    """Finish what processes that died have begun in a staging folder of `home`, and clear that folder.

    Directories that were being replaced are put back. Files of a group that were complete are moved to their
    places; of a group that is not among `groups` in the order they were written down in. What a living
    process is saving stays.
    """
    for replaced in replaced_in(staging):
        put_back(replaced, home)
    for entry in list(staging.iterdir()) if staging.is_dir() else ():
        if not entry.is_dir() or not is_locked(entry):
            known = (group for group in groups if entry.name.startswith(group.kind))
            _finish_or_delete(entry, home, next(known, None))
    remove_if_empty(staging)


def require_same_disk(home: Path) -> None:
    """Raise `ValueError` if what is staged in a directory could not be renamed into it."""
    staging = home / STAGING
    if staging.exists() and _disk(staging) != _disk(home):
        raise ValueError(
            f"{staging} lies on another file system than {home}, so nothing that is complete there could be "
            "moved to its place at once; delete that link or mount"
        )


def _disk(path: Path) -> int:
    return os.stat(path).st_dev


def _finish_or_delete(own: Path, directory: Path, group: FileGroup | None) -> None:
    if (own / _READY).is_dir():
        _move_into(own, directory, group)
    _remove(own)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _move_into(own: Path, directory: Path, group: FileGroup | None) -> None:
    """Move the files of a complete group to their places, as far as that is not done."""
    ready = own / _READY
    names = (own / _NAMES).read_text(encoding="utf-8").splitlines()
    if group is not None:
        names.sort(key=group.order)
    if len(names) > 1 and (ready / names[-1]).exists():
        (directory / names[-1]).unlink(missing_ok=True)
    for name in names:
        if (ready / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, directory / name)
    if group is not None:
        group.finish(directory, names)
    sync(directory)
    shutil.rmtree(ready)


_READY, _NAMES = "ready", "names"
