"""Files that a crash cannot leave half done, their hashes, and links that lead elsewhere."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment its old or its new content is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(directory: Path) -> None:
    """Wait until a directory is on the disk, with everything in it."""
    for folder, _, names in os.walk(directory):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files in a directory, by name."""
    names = list(names)
    # Hashing leaves the interpreter free.
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(names, pool.map(lambda name: sha256(directory / name), names), strict=True))


def leaves(path: Path, directory: Path) -> bool:
    """Say whether a path in a directory leads out of it by a link, other than one within the Hub's cache."""
    home, target = directory.resolve(), path.resolve()
    if target.is_relative_to(home):
        return False
    return home.parent.name != "snapshots" or target.parent != home.parents[1] / "blobs"
