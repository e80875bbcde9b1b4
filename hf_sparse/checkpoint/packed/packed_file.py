"""The file `packed.safetensors`: the bytes of every tensor; its metadata index how they are coded.

docs/packed_format.md describes it byte by byte.
"""

import base64
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import safetensors
import safetensors.numpy
import torch
from pydantic import (
    AfterValidator,
    FailFast,
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.packed.codec import STRICT, Coding
from hf_sparse.fields import one_of
from hf_sparse.quantization.activations import OBSERVERS
from hf_sparse.quantization.fake_layers import ACTIVATIONS
from hf_sparse.quantization.weights import read_weight_scheme

PACKED = "packed.safetensors"
# The name of the format in a config.json, as `quant_method`.
METHOD = "hf_sparse"
FORMAT_VERSION = 1
# Appended to the name of a tensor, since its coded bytes are not the tensor.
SUFFIX = ".packed"
_KEY = "hf_sparse_packed"
# Raw DEFLATE, without the header and checksum of zlib.
_RAW = -15
# Bytes of an entry in the index beside its name; JSON may escape a character of the name as six.
_LONGEST_ENTRY = 2048
# Bounds on the bytes of tensors in memory, so that a small file cannot ask for much. DEFLATE expands a byte
# to at most 1,032, and weights that are all zero take almost no bytes.
_FEWEST, _TIMES = 1 << 28, 1 << 11

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*FLOATS, *_INTEGERS)}

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class Quantization:
    """How a layer is quantized: names as in a recipe, the range of its input, the coding of its scales.

    The codes are of the matrix (out, in), also for a `transposed` layer, which stores (in, out). The
    `input_range` exists with uint8_per_tensor only; the scales are float32, as `WeightScheme.scales` shapes
    them.
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

    Its bytes are the streams of `coding`, then those of the scales; `crc32` is their checksum.
    """

    name: str
    dtype: Annotated[str, one_of(DTYPES)]
    shape: Annotated[tuple[NonNegativeInt, ...], FailFast()]
    coding: Coding
    quantization: Quantization | None
    crc32: NonNegativeInt = 0

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return self.coding.length + (self.quantization.scales.length if self.quantization else 0)


# Validation stops at the first error: a report of a thousand errors would be much larger than the index.
_INDEX = TypeAdapter(Annotated[list[Entry], FailFast()])


def write_packed(path: Path, tensors: Iterable[tuple[Entry, bytes]]) -> None:
    """Write a file, whole or not at all; checksums are computed here."""
    entries, contents = [], {}
    for entry, content in tensors:
        entries.append(asdict(entry) | {"crc32": zlib.crc32(content)})
        contents[entry.name + SUFFIX] = np.frombuffer(content, np.uint8)
    write_atomically(path, safetensors.numpy.save(contents, index_metadata(entries)))


def index_metadata(entries: object) -> dict[str, str]:
    """Return the metadata of a file with these entries."""
    packed = zlib.compress(json.dumps(entries, separators=(",", ":")).encode(), 9, _RAW)
    # In one value, since safetensors writes several in any order.
    return {_KEY: f"{FORMAT_VERSION} {zlib.crc32(packed)} {base64.b64encode(packed).decode()}"}


def read_packed(path: Path) -> list[tuple[Entry, memoryview]]:
    """Return the entries of a file with their bytes, after comparing checksums.

    Raises `FileNotFoundError` if the file is missing, `ValueError` if it is damaged or of a newer format.
    Whether codings fit shapes is checked when they are decoded.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; pack a model with save_packed")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            names = file.keys()
            entries = _entries(file.metadata(), _room(names))
            _require_room(entries, path.stat().st_size)
            contents = {name: _bytes_of(file, name) for name in names}
        return _paired(entries, contents)
    except _Newer as error:
        raise ValueError(f"{path} {error}; upgrade hf_sparse") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise damaged(path, f"its index cannot be understood: {where} {first['msg']}") from error
    except (ValueError, safetensors.SafetensorError) as error:
        raise damaged(path, error) from error


def _bytes_of(file: safetensors.safe_open, name: str) -> np.ndarray:
    if (dtype := file.get_slice(name).get_dtype()) != "U8":
        raise ValueError(f"{name} is {dtype}, not bytes")
    return file.get_tensor(name)


def damaged(path: Path, why: object) -> ValueError:
    """Return an error that names the file and the way out."""
    return ValueError(f"{path} is damaged ({why}); copy it again, or pack the model again with save_packed")


class _Newer(Exception):
    pass


def _room(names: Collection[str]) -> int:
    """Return how many bytes an index of these tensors can take at most."""
    return sum(6 * len(name.encode()) for name in names) + _LONGEST_ENTRY * (len(names) + 1)


def _require_room(entries: list[Entry], size: int) -> None:
    """Raise `ValueError` for tensors that are too large for a file of this size."""
    asked = sum(prod(entry.shape) * DTYPES[entry.dtype].itemsize for entry in entries)
    if asked > max(_FEWEST, _TIMES * size):
        raise ValueError(f"its {size} bytes are said to hold {asked}")


def _entries(metadata: Mapping[str, str] | None, room: int) -> list[Entry]:
    """Return the entries of a file; its index may expand to `room` bytes."""
    match = re.fullmatch(r"([1-9]\d*) (\d+) ([\w+/=]+)", (metadata or {}).get(_KEY, ""), re.ASCII)
    if metadata is None or match is None or len(metadata) > 1:
        raise ValueError("its metadata are not those of a packed model")
    version, checksum, text = match.groups()
    if int(version) > FORMAT_VERSION:
        raise _Newer(f"has format version {version}, this release reads up to {FORMAT_VERSION}")
    packed = base64.b64decode(text, validate=True)
    if str(zlib.crc32(packed)) != checksum:
        raise ValueError("its index does not match its checksum")
    entries = _INDEX.validate_json(_expanded(packed, room))
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("a name occurs twice")
    return entries


def _paired(entries: list[Entry], contents: Mapping[str, np.ndarray]) -> list[tuple[Entry, memoryview]]:
    """Return entries with their bytes; raise `ValueError` unless these are as the entries say."""
    if {entry.name + SUFFIX for entry in entries} != contents.keys():
        raise ValueError(f"it holds {len(contents)} tensors, and not those of its index")
    pairs = []
    for entry in entries:
        content = contents[entry.name + SUFFIX]
        if content.dtype != np.uint8 or content.shape != (entry.length,):
            raise ValueError(f"the streams of {entry.name} do not fill its {content.nbytes} bytes")
        if zlib.crc32(content.data) != entry.crc32:
            raise ValueError(f"{entry.name} does not match its checksum")
        pairs.append((entry, content.data))
    return pairs


def _expanded(index: bytes, room: int) -> bytes:
    machine = zlib.decompressobj(_RAW)
    try:
        expanded = machine.decompress(index, room)
    except zlib.error as error:
        raise ValueError(f"its index cannot be decompressed: {error}") from error
    if not machine.eof or machine.unused_data:
        raise ValueError(f"its index does not decompress, or not to {room} bytes at most")
    return expanded
