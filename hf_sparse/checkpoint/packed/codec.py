"""Lossless coding of one tensor of numbers that are mostly zeros, near the entropy bound.

The positions and the values of non-zero entries are coded separately, both by the Huffman codes of DEFLATE
(RFC 1951). These come within 1 % of the entropy here, in at most a third of the time of arithmetic coding;
`benchmarks/packing.py` has the figures. docs/packed_format.md describes the result byte by byte.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, FailFast, NonNegativeInt
from pydantic.dataclasses import dataclass

Positions = Literal["all", "gaps", "bitmap"]
Method = Literal["stored", "deflate"]

# A gap of 255 or more is written as this byte, repeated as often as it fits, and the remainder.
# Entries that are decoded together, a multiple of 8.
_AT_ONCE = 1 << 17
_ESCAPE = 255
# Raw DEFLATE, without header and checksum of zlib, with the largest window and memory.
_RAW, _LEVEL, _MEMORY = -15, 6, 9


# For what is read from files, which may be damaged or hostile.
STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=STRICT)
class Stream:
    """A run of bytes: how it is coded, its `length` in the file and its `size` once decoded."""

    method: Method
    length: NonNegativeInt
    size: NonNegativeInt


@dataclass(frozen=True, config=STRICT)
class Coding:
    """How the entries of a tensor are coded.

    `positions` is how the places of the coded values are stored, `count` how many values there are: `all`
    entries, or the non-zero ones. A stream of positions, if there is one, comes before those of values.
    """

    positions: Positions
    count: NonNegativeInt
    streams: Annotated[tuple[Stream, ...], FailFast()]

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return sum(stream.length for stream in self.streams)


_Coded = tuple[Stream, bytes]


def pack_codes(codes: np.ndarray, highest: int) -> tuple[Coding, bytes]:
    """Code int8 numbers from -highest to highest, of any shape, in row-major order.

    Raises `ValueError` for other numbers.
    """
    flat = np.ascontiguousarray(codes).reshape(-1)
    if flat.size and max(int(flat.max()), -int(flat.min())) > highest:
        raise ValueError(f"codes from {flat.min()} to {flat.max()} do not fit -{highest} to {highest}")
    return _pack(flat, lambda values, dense: [_join(_symbols(values, highest, dense), _base(highest, dense))])


def pack_words(words: np.ndarray) -> tuple[Coding, bytes]:
    """Code integers of 1, 2, 4 or 8 bytes, of any shape: the bit patterns of numbers of any kind."""
    flat = np.ascontiguousarray(words).reshape(-1)
    little = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
    return _pack(
        little,
        lambda values, _: [
            np.ascontiguousarray(plane) for plane in values.view(np.uint8).reshape(-1, flat.itemsize).T
        ],
    )


def check_codes(coding: Coding, entries: int, highest: int) -> None:
    """Raise `ValueError` unless a coding fits this number of codes; allocates no memory."""
    together = _together(_base(highest, coding.positions == "all"))
    _check(coding, entries, [-(-coding.count // together)])


def check_words(coding: Coding, entries: int, itemsize: int) -> None:
    """Raise `ValueError` unless a coding fits this number of integers; allocates no memory."""
    _check(coding, entries, [coding.count] * itemsize)


def unpack_codes(coding: Coding, content: memoryview, entries: int, highest: int) -> np.ndarray:
    """Return the int8 numbers, (entries,), that `pack_codes` coded; raise `ValueError` if damaged."""
    check_codes(coding, entries, highest)
    places, (plane,) = _decoded(coding, content)
    dense = coding.positions == "all"
    symbols = _split(plane, _base(highest, dense), coding.count)

    def values(part: slice) -> np.ndarray:
        found = symbols[part].astype(np.int16) - highest
        if not dense:
            found += found >= 0
        return found.astype(np.int8)

    return _placed(coding, places, entries, np.int8, values)


def unpack_words(coding: Coding, content: memoryview, entries: int, itemsize: int) -> np.ndarray:
    """Return the integers, (entries,), that `pack_words` coded; raise `ValueError` if damaged."""
    check_words(coding, entries, itemsize)
    places, planes = _decoded(coding, content)
    dtype = np.dtype(f"<i{itemsize}")

    def values(part: slice) -> np.ndarray:
        found = np.empty((len(planes[0][part]), itemsize), np.uint8)
        for byte, plane in enumerate(planes):
            found[:, byte] = plane[part]
        return found.reshape(-1).view(dtype)

    return _placed(coding, places, entries, dtype, values)


def _pack(
    flat: np.ndarray, planes_of: Callable[[np.ndarray, bool], list[np.ndarray]]
) -> tuple[Coding, bytes]:
    kept = np.flatnonzero(flat)
    values, sparse = flat[kept], 2 * len(kept) < flat.size
    located = [_bitmap(flat), _gaps(kept)] if sparse else [_bitmap(flat)]
    first = min(located, key=lambda candidate: candidate[1][0].length)
    candidates = [_coding(first, planes_of(values, False), len(values))]
    if not sparse:
        # Zeros may also be coded like other values.
        candidates.append(_coding(("all", None), planes_of(flat, True), flat.size))
    return min(candidates, key=lambda candidate: candidate[0].length)


def _coding(
    located: tuple[Positions, _Coded | None], planes: Sequence[np.ndarray], count: int
) -> tuple[Coding, bytes]:
    positions, first = located
    coded = [first] if first else []
    # Values are random: repetitions would be chance ones, whose coding costs more than it saves.
    coded += [_smallest(plane.tobytes(), [zlib.Z_HUFFMAN_ONLY]) for plane in planes]
    streams, contents = zip(*coded, strict=True)
    return Coding(positions, count, tuple(streams)), b"".join(contents)


# Positions repeat where whole blocks have been removed.
_ANY = (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)


def _bitmap(flat: np.ndarray) -> tuple[Positions, _Coded]:
    return "bitmap", _smallest(np.packbits(flat != 0).tobytes(), _ANY)


def _gaps(kept: np.ndarray) -> tuple[Positions, _Coded]:
    """Code the number of zeros between each kept entry and the one before it."""
    escapes, rest = np.divmod(np.diff(kept, prepend=-1) - 1, _ESCAPE)
    gaps = np.full(len(kept) + int(escapes.sum()), _ESCAPE, np.uint8)
    gaps[np.arange(len(kept)) + np.cumsum(escapes)] = rest
    return "gaps", _smallest(gaps.tobytes(), _ANY)


def _smallest(content: bytes, strategies: Sequence[int]) -> _Coded:
    coded: list[tuple[Method, bytes]] = [("stored", content)]
    for strategy in strategies:
        machine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, _MEMORY, strategy)
        coded.append(("deflate", machine.compress(content) + machine.flush()))
    method, shortest = min(coded, key=lambda candidate: len(candidate[1]))
    return Stream(method, len(shortest), len(content)), shortest


def _base(highest: int, dense: bool) -> int:
    """Return the number of different codes; 0 counts only if all entries are coded."""
    return 2 * highest + dense


def _symbols(codes: np.ndarray, highest: int, dense: bool) -> np.ndarray:
    """Number the codes from 0 in ascending order."""
    symbols = codes.astype(np.int16) + highest
    return symbols if dense else symbols - (codes > 0)


def _together(base: int) -> int:
    """Return how many digits of a base fit a byte; Huffman codes of whole bits suit large alphabets."""
    digits = 1
    while base ** (digits + 1) <= 256:
        digits += 1
    return digits


def _join(symbols: np.ndarray, base: int) -> np.ndarray:
    """Combine symbols into bytes, as digits with the first one lowest; the last byte is padded with 0."""
    together = _together(base)
    padded = np.pad(symbols, (0, -len(symbols) % together)).reshape(-1, together)
    return (padded @ base ** np.arange(together)).astype(np.uint8)


def _split(plane: np.ndarray, base: int, count: int) -> np.ndarray:
    together = _together(base)
    if plane.size and int(plane.max()) >= base**together:
        raise ValueError(f"a byte of its values is {plane.max()}, not below {base**together}")
    if together == 1:
        return plane
    digits = (np.arange(base**together)[:, None] // base ** np.arange(together) % base).astype(np.uint8)
    symbols = digits[plane].reshape(-1)
    if symbols[count:].any():
        raise ValueError("there are more values than counted")
    return symbols[:count]


def _check(coding: Coding, entries: int, planes: list[int]) -> None:
    dense = coding.positions == "all"
    if coding.count > entries or (dense and coding.count != entries):
        raise ValueError(f"{coding.count} values are said to be in {entries} entries")
    if len(coding.streams) != len(planes) + (not dense):
        raise ValueError(f"{len(coding.streams)} streams, {len(planes) + (not dense)} were expected")
    located, values = coding.streams[: not dense], coding.streams[not dense :]
    if [stream.size for stream in values] != planes:
        raise ValueError(f"the sizes of its values do not fit {coding.count} of {entries} entries")
    for stream in located:
        fewest, most = -(-entries // 8), -(-entries // 8)
        if coding.positions == "gaps":
            fewest, most = coding.count, coding.count + entries // _ESCAPE
        if not fewest <= stream.size <= most:
            raise ValueError(f"{stream.size} bytes of positions, {fewest} to {most} were expected")
    for stream in coding.streams:
        if stream.method == "stored" and stream.length != stream.size:
            raise ValueError(f"{stream.length} bytes are said to hold {stream.size} uncompressed")


def _decoded(coding: Coding, content: memoryview) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """Return the places of values as they were coded, if they were, and the planes of values."""
    if len(content) != coding.length:
        raise ValueError(f"there are {len(content)} bytes, {coding.length} were expected")
    planes, first = [], 0
    for stream in coding.streams:
        planes.append(np.frombuffer(_expanded(stream, content[first : first + stream.length]), np.uint8))
        first += stream.length
    return (None, planes) if coding.positions == "all" else (planes[0], planes[1:])


def _expanded(stream: Stream, content: memoryview) -> memoryview | bytes:
    if stream.method == "stored":
        return content
    machine = zlib.decompressobj(_RAW)
    try:
        # One byte more than expected: a longer stream is noticed, and decoded no further.
        expanded = machine.decompress(content, stream.size + 1)
    except zlib.error as error:
        raise ValueError(f"its bytes cannot be decompressed: {error}") from error
    if len(expanded) != stream.size or not machine.eof or machine.unused_data:
        raise ValueError(f"its bytes do not decompress to {stream.size} bytes")
    return expanded


def _from_gaps(gaps: np.ndarray, count: int, entries: int) -> np.ndarray:
    ends = np.flatnonzero(gaps != _ESCAPE)
    if len(ends) != count or (len(gaps) and gaps[-1] == _ESCAPE):
        raise ValueError(f"{len(ends)} positions, {count} were expected")
    positions = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(count)
    if count and positions[-1] >= entries:
        raise ValueError(f"a value lies at {positions[-1]} of {entries} entries")
    return positions


def _placed(
    coding: Coding,
    places: np.ndarray | None,
    entries: int,
    dtype: np.dtype | type,
    values: Callable[[slice], np.ndarray],
) -> np.ndarray:
    """Return numbers, (entries,), whose values stand at their places; a part at a time, to save memory."""
    flat, first, count = np.zeros(entries, dtype), 0, coding.count
    if places is not None and coding.positions == "gaps":
        flat[_from_gaps(places, count, entries)] = values(slice(count))
        return flat
    for start in range(0, entries, _AT_ONCE):
        part = flat[start : start + _AT_ONCE]
        if places is None:
            part[:] = values(slice(start, start + len(part)))
            continue
        kept = np.unpackbits(places[start // 8 :][: -(-len(part) // 8)], count=len(part)).view(bool)
        last = first + int(np.count_nonzero(kept))
        if last <= count:
            # A copy by flags goes from run to run; where runs are short one by positions is faster.
            long = 2 * np.count_nonzero(kept[1:] != kept[:-1]) < last - first
            part[kept if long else np.flatnonzero(kept)] = values(slice(first, last))
        first = last
    if places is not None:
        beyond = int(np.unpackbits(places[entries // 8 :])[entries % 8 :].sum())
        if beyond or first != count:
            raise ValueError(f"{first + beyond} positions, {count} were expected")
    return flat
