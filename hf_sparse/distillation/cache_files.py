"""Files that hold entries of a cache under their keys: each is written once, whole or not at all."""

import hashlib
import json
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hf_sparse.atomic.files import write_atomically
from hf_sparse.distillation.cached_outputs import Layout, from_values, to_text
from hf_sparse.distillation.example_keys import KEY_BYTES
from hf_sparse.readers import parse_json

_PREFIX, _SUFFIX = "outputs-", ".safetensors"
_INDEX = ("keys", "starts", "sums")
_WAY_OUT = "delete that file, and its outputs are computed again"
# A file that was being written this long ago, in seconds, was left by a process that died.
_LEFT_SECONDS = 24 * 3600


class CacheFile:
    """A file of entries; `keys` and checksums, `sums`, are in their order. Entries are read when needed.

    Raises `ValueError` if the file is damaged or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                keys, starts, sums = (file.get_tensor(name) for name in _INDEX)
                length = file.get_slice("data").get_shape()[0]
            if metadata.get("digest") != _digest(metadata, keys, starts, sums):
                raise ValueError("its index does not match its digest")
            if not _is_index(keys, starts, sums, length):
                raise ValueError("its index does not fit its entries")
            self.identity = metadata["identity"]
            self.layout: Layout = from_values(parse_json(metadata["layout"], own=True))
            self._begin = _place_of_data(path)
        except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
            raise ValueError(f"{path} is damaged ({error}); {_WAY_OUT}") from error
        self.keys = [bytes(key) for key in keys.numpy()]
        self._starts, self.sums = starts.tolist(), sums.tolist()
        self._checked = bytearray(len(self.keys))

    @property
    def size(self) -> int:
        """The bytes of all entries."""
        return self._starts[-1]

    def read(self, number: int) -> bytearray:
        """Return an entry; raise `ValueError` if the file has been damaged since it was opened."""
        start, end = self._starts[number : number + 2]
        entry = bytearray(end - start)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self._begin + start)
                found = file.readinto(entry)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read ({error.strerror}); start the run again") from error
        if found != len(entry) or not self._is_intact(number, entry):
            raise ValueError(f"entry {number} of {self.path} is damaged; {_WAY_OUT}")
        return entry

    def check(self) -> None:
        """Read every entry that has not been read yet; raise as `read` does."""
        for number in range(len(self.sums)):
            if not self._checked[number]:
                self.read(number)

    def _is_intact(self, number: int, entry: bytearray) -> bool:
        # Once for each entry and process: later readings come from the same pages.
        if not self._checked[number]:
            if zlib.crc32(entry) != self.sums[number]:
                return False
            self._checked[number] = True
        return True


def write_cache_file(
    directory: Path, entries: Mapping[bytes, bytearray], layout: Layout, identity: str
) -> CacheFile:
    """Write entries into a new file of a directory, and open it.

    Any number of processes may write to a directory, since no file is ever changed. Raises `OSError`.
    """
    lengths = torch.tensor([0, *map(len, entries.values())])
    keys = torch.tensor([list(key) for key in entries], dtype=torch.uint8)
    starts = lengths.cumsum(0)
    sums = torch.tensor([zlib.crc32(entry) for entry in entries.values()])
    metadata = {"identity": identity, "layout": to_text(layout)}
    metadata["digest"] = _digest(metadata, keys, starts, sums)
    data = torch.frombuffer(bytearray().join(entries.values()), dtype=torch.uint8)
    tensors = dict(zip(_INDEX, (keys, starts, sums), strict=True)) | {"data": data}
    path = directory / f"{_PREFIX}{uuid.uuid4().hex}{_SUFFIX}"
    write_atomically(path, save(tensors, metadata))
    return CacheFile(path)


def cache_files_in(directory: Path) -> Iterator[Path]:
    """Yield the files of entries in a directory; delete unfinished ones of processes that died long ago."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith(_PREFIX) and path.suffix == _SUFFIX:
            yield path
        elif path.name.startswith(f".{_PREFIX}"):
            _delete_left_over(path)


def _delete_left_over(path: Path) -> None:
    try:
        if path.stat().st_mtime < time.time() - _LEFT_SECONDS:
            os.unlink(path)
    except OSError:
        # Another process has finished or deleted it, or it is not ours to delete.
        return


def _place_of_data(path: Path) -> int:
    """Return where the bytes of the tensor `data` begin in a file, whose header `safe_open` has checked."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = parse_json(file.read(length))
    return 8 + length + header["data"]["data_offsets"][0]


def _is_index(keys: Tensor, starts: Tensor, sums: Tensor, length: int) -> bool:
    """Return whether keys, places and checksums are those of as many entries, in `length` bytes together."""
    count = len(sums) if sums.dim() else -1
    shaped = keys.shape == (count, KEY_BYTES) and starts.shape == (count + 1,) and sums.shape == (count,)
    typed = (keys.dtype, starts.dtype, sums.dtype) == (torch.uint8, torch.int64, torch.int64)
    if not (shaped and typed):
        return False
    return bool(starts[0] == 0 and starts[-1] == length and (starts.diff() >= 0).all())


def _digest(metadata: Mapping[str, str], *index: Tensor) -> str:
    known = {name: text for name, text in metadata.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for tensor in index:
        digest.update(json.dumps([str(tensor.dtype), *tensor.shape]).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
