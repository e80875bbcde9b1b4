"""The packed file: any change of its bytes is noticed."""

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_sparse.checkpoint.packed.codec import pack_words
from hf_sparse.checkpoint.packed.packed_file import FORMAT_VERSION, PACKED, Entry, read_packed, write_packed


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file that holds three small tensors."""
    tensors = []
    for name, words in (("a", np.arange(9, dtype=np.int8)), ("b", np.zeros(5, np.int8))):
        coding, content = pack_words(words)
        tensors.append((Entry(name, "int8", words.shape, coding, None), content))
    write_packed(tmp_path / PACKED, tensors)
    return tmp_path / PACKED


def test_no_flipped_bit_goes_unnoticed(small: Path) -> None:
    whole = small.read_bytes()
    assert len(read_packed(small)) == 2
    for place in range(len(whole)):
        small.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="packed.safetensors (is damaged|has format version)"):
            read_packed(small)


def test_no_missing_or_additional_byte_goes_unnoticed(small: Path) -> None:
    whole = small.read_bytes()
    for end in range(len(whole)):
        small.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="is damaged .*; copy it again, or pack the model again"):
            read_packed(small)
    small.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="is damaged"):
        read_packed(small)


def test_a_newer_format_asks_for_a_newer_release(small: Path) -> None:
    now, newer = (b'hf_sparse_packed":"%d ' % version for version in (FORMAT_VERSION, FORMAT_VERSION + 1))
    small.write_bytes(small.read_bytes().replace(now, newer))
    said = f"has format version {FORMAT_VERSION + 1}, this release reads up to {FORMAT_VERSION}; upgrade"
    with pytest.raises(ValueError, match=said):
        read_packed(small)


def test_an_index_that_expands_without_end_is_not_expanded(small: Path) -> None:
    index = zlib.compress(bytes(1 << 27), 9, -15)
    metadata = {"hf_sparse_packed": f"1 {zlib.crc32(index)} {base64.b64encode(index).decode()}"}
    save_file({}, small, metadata)
    with pytest.raises(ValueError, match="its index does not decompress"):
        read_packed(small)
