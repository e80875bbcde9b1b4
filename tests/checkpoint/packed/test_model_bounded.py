"""Packed files that are small and ask for much memory."""

import base64
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hf_sparse.checkpoint.packed.entries import pack_tensor, unpack
from hf_sparse.checkpoint.packed.packed_file import PACKED, index_metadata, read_packed, write_packed

CODE = """
import resource
from pathlib import Path
from hf_sparse.checkpoint.packed.packed_file import read_packed
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (96 << 20), now + (96 << 20)))
try:
    read_packed(Path({path!r}))
except ValueError as error:
    print(error)
"""


def refusal(path: Path) -> str:
    """Return why a file is refused, by a process that has little memory left."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(path=str(path))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def metadata(index: bytes) -> dict[str, str]:
    machine = zlib.compressobj(9, wbits=-15)
    packed = machine.compress(index) + machine.flush()
    return {"hf_sparse_packed": f"1 {zlib.crc32(packed)} {base64.b64encode(packed).decode()}"}


@pytest.mark.parametrize("part", [b"{},", b'{"name":"' + b"a" * 100 + b'"},', b"[" * 10, b"1,"])
def test_an_index_has_room_for_the_tensors_of_its_file(part: bytes, tmp_path: Path) -> None:
    path = tmp_path / PACKED
    save_file({"a.packed": np.zeros(4, np.uint8)}, path, metadata(b"[" + part * (60_000_000 // len(part))))
    assert path.stat().st_size < 1_000_000
    assert f"{path} is damaged (its index does not decompress, or not to 4144 bytes" in refusal(path)


def test_the_longest_entries_have_room(tmp_path: Path) -> None:
    """Every byte of a number is a stream, and JSON writes each character of a name as six."""
    path = tmp_path / PACKED
    values = torch.randint(-(2**62), 2**62, (3, 5, 7)) * (torch.rand(3, 5, 7) > 0.5)
    names = [f"{letter * 60}.{number}" for letter in ("a", "é", "漢", "\U0001f600") for number in range(3)]
    write_packed(path, [pack_tensor(name, values) for name in names])
    assert [entry.name for entry, _ in read_packed(path)] == names


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (2**63, 2**63, 2**63)])
def test_zeros_that_take_no_bytes_are_no_more_than_models_have(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / PACKED
    entry, content = pack_tensor("a", torch.zeros(8))
    changed = asdict(entry) | {"shape": shape, "crc32": zlib.crc32(content)}
    save_file({"a.packed": np.frombuffer(content, np.uint8)}, path, index_metadata([changed]))
    assert f"{path} is damaged (its {path.stat().st_size} bytes are said to hold" in refusal(path)


def test_a_tensor_of_zeros_is_packed_all_the_same(tmp_path: Path) -> None:
    path, zeros = tmp_path / PACKED, torch.zeros(4096, 4096)
    write_packed(path, [pack_tensor("a", zeros)])
    ((entry, content),) = read_packed(path)
    assert path.stat().st_size < 4096 * 4096 / 500 and torch.equal(unpack(entry, content), zeros)
