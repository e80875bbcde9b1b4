"""Files that a crash cannot leave half written, their hashes, and links that lead elsewhere."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment its old or its new content is there, whole."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def write_parts_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file like `write_atomically`, a part of its content after another."""
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        for part in parts:
            file.write(part)


def create_file(path: Path, content: bytes) -> bool:
    """Write a file that does not exist yet; return False if another process has written it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes on several machines may share a directory, and even a process number.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
        whole = Path(own) / path.name
        whole.write_bytes(content)
        sync(whole)
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:
            # Some file systems lack links; the first of two processes then loses, and reads what it finds.
            if path.exists():
                return False
            os.replace(whole, path)
    sync(path.parent)
    return True


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file over another one, so that at any moment the old or the new one is there, whole."""
    with replacing_file(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file to write, which takes the place of `path` when the block ends.

    If the block fails, nothing has changed. Missing directories are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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
    # Hashing releases the interpreter lock.
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(names, pool.map(lambda name: sha256(directory / name), names), strict=True))


def leaves(path: Path, directory: Path) -> bool:
    """Return whether a path in a directory leads out of it by a link, other than one in the Hub's cache."""
    home, target = directory.resolve(), path.resolve()
    if target.is_relative_to(home):
        return False
    return home.parent.name != "snapshots" or target.parent != home.parents[1] / "blobs"
