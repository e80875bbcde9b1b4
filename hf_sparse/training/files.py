"""Directories that a crash cannot leave half done."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import SIDECAR, weight_hashes
from hf_sparse.storage import hash_files, sync, sync_all, write_atomically
from hf_sparse.training.claims import claimed, is_claimed

logger = logging.getLogger(__name__)

# Trainer leaves names with an underscore out of what it pushes to the Hub.
STAGING = "_saving"


def publish_directory(staged: Path, final: Path) -> None:
    """Move a finished directory to its place, replacing one that is there already.

    A directory that is replaced waits beside the staged one until the new one stands; `recover_directories`
    puts it back if the process dies in between.
    """
    sync_all(staged)
    replaced = staged.with_name(_REPLACED + final.name)
    if final.exists():
        os.rename(final, replaced)
    os.rename(staged, final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


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


@contextmanager
def staged_files(directory: Path) -> Iterator[Path]:
    """Give an empty directory for the files of a model, which take their places in `directory` at the end.

    Other files there stay, but not weights and sidecar of the model before. Where the block fails nothing has
    changed. If the process dies before all files are in their places, the sidecar says so to those who read
    it, and `recover_directories` moves the rest.
    """
    staging = directory / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=_MODEL, dir=staging))
    with claimed(own):
        staged, ready = own / "new", own / _READY
        staged.mkdir()
        if (directory / _CARD).is_file():
            # Some models do not write their card but update it.
            shutil.copy2(directory / _CARD, staged)
        try:
            yield staged
            names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
            write_atomically(own / _NAMES, "\n".join(names).encode())
            sync_all(staged)
            os.rename(staged, ready)
            sync(own)
            _move_into(own, directory)
        finally:
            # Files that could not all be moved are whole, and wait for the next attempt.
            if not ready.exists():
                shutil.rmtree(own, ignore_errors=True)
                remove_if_empty(staging)


def recover_directories(staging: Path, home: Path) -> None:
    """Finish what processes that died have begun in a staging folder of `home`, and clear it.

    Directories that were being replaced are put back, files of a model that was complete are moved to their
    places. What a process that is alive is saving stays.
    """
    for replaced in [*staging.glob(f"{_REPLACED}*"), *staging.glob(f"*/{_REPLACED}*")]:
        final = home / replaced.name.removeprefix(_REPLACED)
        if not final.exists():
            os.rename(replaced, final)
    for entry in list(staging.iterdir()) if staging.is_dir() else ():
        if entry.name.startswith(_MODEL):
            if is_claimed(entry):
                continue
            if (entry / _READY).is_dir():
                _move_into(entry, home)
        _remove(entry)
    remove_if_empty(staging)


def remove_if_empty(directory: Path) -> None:
    """Remove a directory unless there is something in it, or there is none."""
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def require_same_disk(home: Path) -> None:
    """Raise `ValueError` if what is staged in a directory could not be renamed into it."""
    staging = home / STAGING
    if staging.exists() and _disk(staging) != _disk(home):
        raise ValueError(
            f"{staging} lies on another file system than {home}, so nothing that is complete there could be "
            "moved to its place at once; delete that link or mount"
        )


def require_writable(directory: str | Path) -> None:
    """Raise `ValueError` unless files can be made in a directory, which is made where it does not exist."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".writable"):
            pass
    except OSError as error:
        raise ValueError(
            f"output directory {directory} cannot be written ({error.strerror}); choose another output_dir"
        ) from error


def _disk(path: Path) -> int:
    return os.stat(path).st_dev


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _move_into(model: Path, directory: Path) -> None:
    """Move the files of a model to their places, as far as that is not done."""
    ready, names = model / _READY, (model / _NAMES).read_text(encoding="utf-8").splitlines()
    # The sidecar knows its weights, so from the first move to the last nobody takes the old ones for the new.
    # The record does not, so it is there only when all else is.
    if RECORD in names:
        (directory / RECORD).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (name == RECORD, name != SIDECAR, name)):
        if (ready / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / name, directory / name)
    if any(map(_WEIGHTS.fullmatch, names)):
        for path in directory.iterdir():
            # Whole weights would be loaded before newer ones in parts.
            if _WEIGHTS.fullmatch(path.name) and path.name not in names:
                path.unlink()
        if SIDECAR not in names and _is_of_others(directory):
            (directory / SIDECAR).unlink()
        if _ADAPTER not in names and (directory / _ADAPTER).is_file():
            logger.warning(
                "%s holds an adapter of before, which from_pretrained puts on the model that is there now; "
                "delete %s and its weights unless that is meant.",
                directory,
                _ADAPTER,
            )
    sync(directory)
    shutil.rmtree(ready)


def _is_of_others(directory: Path) -> bool:
    """Say whether a directory has a sidecar that was written beside other weights than those in it."""
    try:
        known = weight_hashes(directory)
        return hash_files(directory, known) != known
    except FileNotFoundError:
        return (directory / SIDECAR).is_file()
    except (ValueError, OSError, SafetensorError):
        # Whoever reads it is told.
        return False


_REPLACED, _DISCARDED, _MODEL, _READY, _NAMES = "replaced-", "discarded-", "model-", "ready", "names"
_CARD, _ADAPTER = "README.md", "adapter_config.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
