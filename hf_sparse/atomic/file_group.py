"""Files of one directory that change together: all of them old, all new, or completed by the next process."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_sparse.atomic.directories import put_back, remove_if_empty, replaced_in
from hf_sparse.atomic.directory_lock import locked, locked_if_free
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
        order: Sort key of the files' names: they are moved in this order.
        marker: The last of the files. An earlier version is deleted before the first move, so that it is
            there only if all others are. None: each file is replaced when its turn comes.
        updated: Files that are copied to the staging folder first, to be updated there.
        finish: Called with the directory and the names of all files after the last move.
    """

    kind: str
    order: Callable[[str], tuple[Any, ...]]
    marker: str | None = None
    updated: tuple[str, ...] = ()
    finish: Callable[[Path, Collection[str]], None] = _nothing


@contextmanager
def staged_files(directory: Path, group: FileGroup) -> Iterator[Path]:
    """Give an empty directory for files that take their places in `directory` when the block ends.

    Other files there stay. If the block fails, nothing has changed. If the process dies before all files are
    in their places, the next writer of such files, `recover_files` or `recover_directories` moves the rest.
    """
    recover_files(directory, group)
    with _own_folder(directory / STAGING, group.kind) as own:
        staged = own / "new"
        staged.mkdir()
        for name in group.updated:
            if (directory / name).is_file():
                shutil.copy2(directory / name, staged)
        yield staged
        names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
        write_atomically(own / _NAMES, "\n".join(sorted(names, key=group.order)).encode())
        sync_all(staged)
        os.rename(staged, own / _READY)
        sync(own)
        _move_into(own, directory, group)


@contextmanager
def _own_folder(staging: Path, kind: str) -> Iterator[Path]:
    """Give a new folder in a staging folder, locked for the block, and delete it afterwards.

    Files in it that are complete and could not all be moved wait for the next attempt.
    """
    for _ in range(_ATTEMPTS):
        with ExitStack() as stack:
            # Until it is locked, another process may take it for one of a process that died.
            try:
                staging.mkdir(parents=True, exist_ok=True)
                own = Path(tempfile.mkdtemp(prefix=kind, dir=staging))
                stack.enter_context(locked(own))
            except (FileNotFoundError, ValueError):
                continue
            if not own.is_dir():
                continue
            try:
                yield own
            finally:
                if not (own / _READY).exists():
                    shutil.rmtree(own, ignore_errors=True)
                    remove_if_empty(staging)
            return
    raise OSError(f"folders in {staging} are deleted as they are made; write to another directory")


def recover_files(directory: Path, group: FileGroup) -> None:
    """Finish what processes that died have begun to write of a group; incomplete files are deleted."""
    staging = directory / STAGING
    for own in staging.glob(f"{group.kind}*"):
        with locked_if_free(own, unknown=False) as free:
            if free:
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
        group = next((group for group in groups if entry.name.startswith(group.kind)), None)
        if not entry.is_dir():
            entry.unlink(missing_ok=True)
            continue
        with locked_if_free(entry) as free:
            if free:
                _finish_or_delete(entry, home, group)
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
    if own.is_symlink():
        own.unlink()
    shutil.rmtree(own, ignore_errors=True)


def _move_into(own: Path, directory: Path, group: FileGroup | None) -> None:
    """Move the files of a complete group to their places, as far as that is not done."""
    ready = own / _READY
    names = (own / _NAMES).read_text(encoding="utf-8").splitlines()
    if group is not None:
        names.sort(key=group.order)
    if group is not None and group.marker is not None and (ready / group.marker).exists():
        (directory / group.marker).unlink(missing_ok=True)
    for name in names:
        if (ready / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, directory / name)
    if group is not None:
        group.finish(directory, names)
    sync(directory)
    shutil.rmtree(ready)


_READY, _NAMES = "ready", "names"
_ATTEMPTS = 100
