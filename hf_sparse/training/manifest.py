"""The list of a checkpoint's files, from which it is seen whether all are those that were saved."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_sparse.atomic.files import hash_files, write_atomically
from hf_sparse.reading import parse_json
from hf_sparse.training.state import SIDECAR, weight_hashes

MANIFEST = "hf_sparse_files.json"
FORMAT_VERSION = 1


def write_manifest(directory: Path) -> None:
    """Write size and SHA-256 of every file of a checkpoint beside them.

    Weights that the sidecar has the hash of are not read again.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    hashes = weight_hashes(directory) if SIDECAR in names else {}
    hashes = hashes | hash_files(directory, (name for name in names if name not in hashes))
    files = {name: {"size": (directory / name).stat().st_size, "sha256": hashes[name]} for name in names}
    text = json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=2)
    write_atomically(directory / MANIFEST, f"{text}\n".encode())


def check_manifest(directory: Path) -> None:
    """Compare a checkpoint with its manifest, file by file, if it has one.

    Files that were added later are left alone. Raises `ValueError` for files that are missing or are not
    those that were saved.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return
    files = _read(path)
    if faults := list(_faults(directory, files)):
        raise ValueError(
            f"{directory} is not as it was saved ({'; '.join(faults)}), so the run would go on as another "
            f"one; resume from another checkpoint, or delete {MANIFEST} in it to take it as it is"
        )


def _faults(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    present = [name for name in files if (directory / name).is_file()]
    if missing := sorted(files.keys() - set(present)):
        yield f"without {', '.join(missing)}"
    sizes = {name: (directory / name).stat().st_size for name in present}
    equal = [name for name in present if sizes[name] == files[name]["size"]]
    hashes = hash_files(directory, equal)
    if changed := [name for name in present if hashes.get(name) != files[name]["sha256"]]:
        yield f"{', '.join(changed)} changed"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = parse_json(path.read_bytes(), own=True)
        version, files = content["format_version"], content["files"]
        if version == FORMAT_VERSION:
            for name, known in files.items():
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ValueError(f"{name} lies outside")
                known["size"], known["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no list of files ({error}); resume from another checkpoint, or delete it"
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this release reads {FORMAT_VERSION}; upgrade hf_sparse"
        )
    return files
