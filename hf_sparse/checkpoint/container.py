"""The file `hf_sparse.packed`: a header that says what lies where, and the bytes of every tensor.

docs/packed_format.md describes it byte by byte.
"""

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import AfterValidator, Field, NonNegativeInt, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from hf_sparse.checkpoint.packing import STRICT, Coding
from hf_sparse.quantization.activations import OBSERVERS
from hf_sparse.quantization.linear import ACTIVATIONS
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.settings.values import one_of
from hf_sparse.storage import write_atomically

PACKED = "hf_sparse.packed"
FORMAT_VERSION = 1
_MAGIC = b"hfsparse"
# Little-endian: magic, version, CRC-32 of the compressed header, its length.
_PREFIX = struct.Struct("<8sIIQ")
# Without header and checksum of zlib's own.
_RAW = -15
# A header of 64 MiB would name 100,000 tensors; a small file must not ask for more memory than that.
_LARGEST_HEADER = 1 << 26

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*FLOATS, *_INTEGERS)}

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class Quantization:
    """How a layer is quantized: texts as in a recipe, the observed range of its input, where its scales are.

    The codes are those of the matrix (out, in), which a `transposed` layer stores as (in, out). `input_range`
    is there with uint8_per_tensor only; `scales` codes float32 numbers as `WeightScheme.scales` shapes them.
    """

    weights: Annotated[str, AfterValidator(lambda text: str(read_weight_scheme(text)))]
    activations: Annotated[str, one_of(ACTIVATIONS)]
    observer: Annotated[str, one_of(OBSERVERS)]
    transposed: bool
    input_range: tuple[Finite, Finite] | None
    scales: Coding

    @model_validator(mode="after")
    def _has_a_range_or_needs_none(self) -> Self:
        if (self.input_range is None) != (self.activations != "uint8_per_tensor"):
            raise ValueError(
                f"{self.activations} and an input range of {self.input_range} exclude each other"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class Entry:
    """One tensor of a state dict, bit for bit or, if quantized, as int8 codes; in row-major order.

    `offset` counts from the first byte after the header, `length` bytes hold the streams of `coding` and then
    those of the scales; `crc32` is of these bytes.
    """

    name: str
    dtype: Annotated[str, one_of(DTYPES)]
    shape: tuple[NonNegativeInt, ...]
    offset: NonNegativeInt
    length: NonNegativeInt
    crc32: NonNegativeInt
    coding: Coding
    quantization: Quantization | None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        scales = self.quantization.scales.length if self.quantization else 0
        if self.coding.length + scales != self.length:
            raise ValueError(f"the streams of {self.name} do not fill its {self.length} bytes")
        return self


_INDEX = TypeAdapter(list[Entry])


def write_packed(path: Path, tensors: Iterable[tuple[Entry, bytes]]) -> None:
    """Write a file, whole or not at all. Offsets and checksums are filled in."""
    entries, contents, offset = [], [], 0
    for entry, content in tensors:
        placed = asdict(entry) | {"offset": offset, "crc32": zlib.crc32(content)}
        entries.append(placed)
        contents.append(content)
        offset += len(content)
    header = zlib.compress(json.dumps(entries, separators=(",", ":")).encode(), 9, _RAW)
    prefix = _PREFIX.pack(_MAGIC, FORMAT_VERSION, zlib.crc32(header), len(header))
    write_atomically(path, b"".join([prefix, header, *contents]))


def read_packed(path: Path) -> list[tuple[Entry, memoryview]]:
    """Return the entries of a file with their bytes, whose checksums have been compared.

    Raises `FileNotFoundError` if there is none, `ValueError` if it is damaged or of a newer format. Only what
    concerns the file as such is checked; whether codings fit shapes is for those who decode them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; pack a model with save_packed")
    content = memoryview(path.read_bytes())
    try:
        return _read(content)
    except _Newer as error:
        raise ValueError(f"{path} {error}; upgrade hf_sparse") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise damaged(path, f"its header cannot be understood: {where} {first['msg']}") from error
    except ValueError as error:
        raise damaged(path, error) from error


def damaged(path: Path, why: object) -> ValueError:
    """Return an error that names the file and the way out."""
    return ValueError(f"{path} is damaged ({why}); copy it again, or pack the model anew with save_packed")


class _Newer(Exception):
    pass


def _read(content: memoryview) -> list[tuple[Entry, memoryview]]:
    if len(content) < _PREFIX.size:
        raise ValueError(f"it has {len(content)} bytes, fewer than its prefix")
    magic, version, checksum, length = _PREFIX.unpack_from(content)
    if magic != _MAGIC:
        raise ValueError("it does not begin as a packed model does")
    if version > FORMAT_VERSION:
        raise _Newer(f"has format version {version}, this release reads up to {FORMAT_VERSION}")
    if not version:
        raise ValueError("there is no format version 0")
    if length > len(content) - _PREFIX.size:
        raise ValueError(f"its header of {length} bytes is longer than the file")
    header, payload = content[_PREFIX.size :][:length], content[_PREFIX.size :][length:]
    if zlib.crc32(header) != checksum:
        raise ValueError("its header does not match its checksum")
    entries = _INDEX.validate_json(_expanded(header))
    end = 0
    for entry in entries:
        if entry.offset != end:
            raise ValueError(f"{entry.name} lies at {entry.offset} and not at {end}")
        end += entry.length
    if end != len(payload):
        raise ValueError(f"it holds {len(payload)} bytes of tensors, its header says {end}")
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("a name occurs twice")
    pairs = [(entry, payload[entry.offset :][: entry.length]) for entry in entries]
    for entry, part in pairs:
        if zlib.crc32(part) != entry.crc32:
            raise ValueError(f"{entry.name} does not match its checksum")
    return pairs


def _expanded(header: memoryview) -> bytes:
    machine = zlib.decompressobj(_RAW)
    try:
        expanded = machine.decompress(header, _LARGEST_HEADER)
    except zlib.error as error:
        raise ValueError(f"its header cannot be decompressed: {error}") from error
    if not machine.eof or machine.unused_data:
        raise ValueError(f"its header does not decompress, or not to less than {_LARGEST_HEADER} bytes")
    return expanded
