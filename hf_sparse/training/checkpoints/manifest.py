"""The list of a checkpoint's files with their hashes, to check that they are as they were saved."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_sparse.atomic.files import hash_files, write_atomically
from hf_sparse.checkpoint.sidecar import SIDECAR, weight_hashes
from hf_sparse.readers import parse_json

MANIFEST = "hf_sparse_files.json"
FORMAT_VERSION = 1


def write_manifest(directory: Path) -> None:
    """Write size and SHA-256 of every file of a checkpoint beside them.

    Hashes of weights are taken from the sidecar if it holds them.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    hashes = weight_hashes(directory) if SIDECAR in names else {}
    hashes = hashes | hash_files(directory, (name for name in names if name not in hashes))
    files = {name: {"size": (directory / name).stat().st_size, "sha256": hashes[name]} for name in names}
    text = json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=2)
    write_atomically(directory / MANIFEST, f"{text}\n".encode())


def check_manifest(directory: Path) -> None:
    """Compare the files of a checkpoint with its manifest, if there is one.

    Files that were added later are ignored. Raises `ValueError` if files are missing or have changed.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return
    files = _read(path)
    if faults := list(_faults(directory, files)):
        raise ValueError(
            f"{directory} is not as it was saved ({'; '.join(faults)}), so the resumed run would "
            f"differ; resume from another checkpoint, or delete {MANIFEST} in it to take it as it is"
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
            f"{path} is not a list of files ({error}); resume from another checkpoint, or delete it"
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this release reads {FORMAT_VERSION}; upgrade hf_sparse"
        )
    return files
