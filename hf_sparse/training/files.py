"""Directories that a crash cannot leave half done."""

import os
import shutil
import tempfile
from pathlib import Path

from hf_sparse.storage import sync


def publish_directory(staged: Path, final: Path) -> None:
    """Move a finished directory to its place, replacing one that is there already.

    A directory that is replaced waits beside the staged one until the new one stands; `recover_directories`
    puts it back if the process dies in between.
    """
    for folder, _, names in os.walk(staged):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))
    replaced = staged.with_name(_REPLACED + final.name)
    if final.exists():
        os.rename(final, replaced)
    os.rename(staged, final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def recover_directories(staging: Path, home: Path) -> None:
    """Clear a staging folder, putting back directories that were being replaced when a process died."""
    for replaced in staging.glob(f"{_REPLACED}*"):
        final = home / replaced.name.removeprefix(_REPLACED)
        if not final.exists():
            os.rename(replaced, final)
    shutil.rmtree(staging, ignore_errors=True)


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


_REPLACED = "replaced-"
