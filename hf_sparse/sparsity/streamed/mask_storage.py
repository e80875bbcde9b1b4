"""The mask of one weight at one bit an entry, in the memory order of the weight."""

import ctypes
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from hf_sparse.native.build import load_library, once
from hf_sparse.sparsity.numpy_ops import count_nonzero, nonzero

# Entries unpacked at a time, a multiple of 8: their bytes stay in a core's cache, or in that of a GPU.
_CHUNK, _CHUNK_ON_DEVICE = 1 << 17, 1 << 24
_INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class BitMask:
    """Which entries of a weight are kept; it takes no memory while all are.

    The first entry has the highest bit of the first byte, as `numpy.packbits` has it. On the CPU
    native/bits.cpp applies the bits; without it, and on other devices, they are unpacked a chunk at a time.

    Args:
        shape: Shape of the weight, (out, in).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.size = shape[0] * shape[1]
        self._bits: Tensor | None = None
        self._turned = False

    @property
    def nbytes(self) -> int:
        """The memory that the mask takes once an entry is removed, in bytes."""
        return -(-self.size // 8)

    def set(self, keep: Tensor, weight: Tensor) -> int:
        """Take over booleans (out, in), True where kept, to be applied to a weight like the one given.

        Return how many are removed.
        """
        self._turned = _is_turned(weight)
        flat = (keep.t() if self._turned else keep).to(weight.device).reshape(-1)
        removed = self.size - count_nonzero(flat)
        self._bits = _pack(flat) if removed else None
        return removed

    def set_bits(self, bits: np.ndarray) -> None:
        """Take over the bits of a mask in row-major order, for a weight on the CPU that lies so, too."""
        self._turned = False
        if self._bits is None:
            self._bits = torch.from_numpy(bits)
        else:
            self._bits.copy_(torch.from_numpy(bits))

    def unpack(self, device: torch.device | None = None) -> Tensor:
        """Return booleans (out, in), True where kept."""
        if self._bits is None:
            return torch.ones(self.shape, dtype=torch.bool, device=device)
        rows, columns = self.shape
        flat = _unpack(self._bits if device is None else self._bits.to(device), 0, self.size)
        return flat.view(columns, rows).t() if self._turned else flat.view(rows, columns)

    def first_of(self, rows: int, columns: int) -> Tensor:
        """Return the first entry of every block of rows x columns, True where kept."""
        width = self.shape[1] // 8
        if self._bits is None or self._turned or self.shape[1] % 8 or self._bits.device.type != "cpu":
            return self.unpack()[::rows, ::columns].contiguous()
        bits = self._bits.numpy().reshape(self.shape[0], width)[::rows]
        return torch.from_numpy(np.unpackbits(bits, axis=1)[:, ::columns].copy()).view(torch.bool)

    def clear(self, values: Tensor) -> None:
        """Set removed entries of a tensor (out, in) to zero: infinite and NaN ones, too, without a sign."""
        if self._bits is None:
            return
        # A bitwise AND rather than a product: NaN * 0 is NaN, and -1 * 0 is -0.
        flat = self._flat(values)
        if flat is not None and self._compiled_for(flat):
            _library().clear_removed(flat.data_ptr(), self._bits.data_ptr(), self.size, flat.element_size())
            return
        for keep, part in self._parts(values):
            _clear(keep, part)

    def take(self, values: Tensor, aside: Tensor) -> None:
        """Move removed entries into a tensor of the same kind; all other entries of it become zero."""
        if self._bits is None:
            aside.zero_()
            return
        flat, other = self._flat(values), self._flat(aside)
        if flat is not None and other is not None and self._compiled_for(flat) and self._compiled_for(other):
            _library().move_removed(
                flat.data_ptr(), other.data_ptr(), self._bits.data_ptr(), self.size, flat.element_size()
            )
            return
        for keep, part, other in self._parts(values, aside):
            other.copy_(part)
            _clear(~keep, other)
            _clear(keep, part)

    def count_removed(self, values: Tensor) -> int:
        """Count the removed entries of a tensor (out, in) that are not zero."""
        if self._bits is None:
            return 0
        return sum(
            int(torch.count_nonzero(nonzero(part).logical_and_(~keep))) for keep, part in self._parts(values)
        )

    def revives(self, bits: np.ndarray) -> bool:
        """Return whether other bits, row-major, keep an entry that is removed here."""
        if self._bits is None:
            return False
        own = np.packbits(self.unpack().cpu().numpy()) if self._turned else self._bits.cpu().numpy()
        parts = range(0, bits.size, _CHUNK)
        return any(bool((bits[at : at + _CHUNK] & ~own[at : at + _CHUNK]).any()) for at in parts)

    def _parts(self, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Return booleans and tensors in flat chunks, or whole if their memory orders differ."""
        if self._bits is None:
            return
        device, flat = values[0].device, [self._flat(tensor) for tensor in values]
        plain = [tensor for tensor in flat if tensor is not None]
        if len(plain) < len(values):
            yield self.unpack(device), *values
            return
        bits, step = self._bits.to(device), _CHUNK if device.type == "cpu" else _CHUNK_ON_DEVICE
        for start in range(0, self.size, step):
            stop = min(start + step, self.size)
            yield _unpack(bits, start, stop), *(tensor[start:stop] for tensor in plain)

    def _compiled_for(self, flat: Tensor) -> bool:
        """Return whether native/bits.cpp can apply the bits to a flat tensor."""
        near = flat.device.type == "cpu" and self._bits is not None and self._bits.device.type == "cpu"
        return near and flat.element_size() in _INTEGER_OF_SIZE and _load() is not None

    def digest(self) -> bytes:
        """Return a short hash of the mask, in the memory order of the weight."""
        bits = b"" if self._bits is None else self._bits.cpu().numpy().data
        return hashlib.blake2b(bits, digest_size=8).digest()

    def _flat(self, values: Tensor) -> Tensor | None:
        """Return a flat view of a tensor in the memory order of the mask; None if it lies otherwise."""
        if values.numel() != self.size:
            raise ValueError(f"a mask of {self.shape} does not fit a tensor of {tuple(values.shape)}")
        turned = values.detach().t() if self._turned else values.detach()
        return turned.view(-1) if turned.is_contiguous() else None


def pack_flags(chunks: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Return the bits of `size` flat booleans that come in chunks, as `numpy.packbits` does."""
    bits = np.empty(-(-size // 8), dtype=np.uint8)
    start, rest = 0, np.empty(0, dtype=bool)
    for part in chunks:
        part = np.concatenate([rest, part]) if rest.size else part
        whole = part.size // 8
        bits[start : start + whole] = np.packbits(part[: whole * 8])
        start, rest = start + whole, part[whole * 8 :]
    bits[start:] = np.packbits(rest)
    return bits


def as_integers(values: Tensor) -> Tensor:
    """Return a view of the bits of numbers as integers of the same size."""
    return values.view(_INTEGER_OF_SIZE[values.element_size()])


def _is_turned(weight: Tensor) -> bool:
    """Return whether a weight lies in memory as (in, out), like those of `Conv1D`."""
    return not weight.is_contiguous() and weight.t().is_contiguous()


def _clear(keep: Tensor, values: Tensor) -> None:
    if values.device.type == "cpu":
        integers = as_integers(values).numpy()
        np.bitwise_and(integers, np.negative(keep.view(torch.int8).numpy()), out=integers)
    else:
        values.masked_fill_(~keep, 0)


def _pack(flat: Tensor) -> Tensor:
    """Return the bits of flat booleans, eight a byte, the first in the highest bit."""
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy()))
    return _pack_by_torch(flat)


def _pack_by_torch(flat: Tensor) -> Tensor:
    bits = flat.new_zeros(-(-flat.numel() // 8), dtype=torch.uint8)
    places = _places(flat.device)
    for start in range(0, flat.numel(), _CHUNK_ON_DEVICE):
        part = flat[start : start + _CHUNK_ON_DEVICE].to(torch.uint8)
        eights = torch.nn.functional.pad(part, (0, -part.numel() % 8)).view(-1, 8)
        bits[start // 8 : start // 8 + len(eights)] = (eights << places).sum(1, dtype=torch.uint8)
    return bits


def _unpack(bits: Tensor, start: int, stop: int) -> Tensor:
    """Return the booleans of flat entries; `start` is a multiple of 8."""
    part = bits[start // 8 : -(-stop // 8)]
    if part.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(part.numpy(), count=stop - start)).view(torch.bool)
    return _unpack_by_torch(part)[: stop - start]


def _unpack_by_torch(bits: Tensor) -> Tensor:
    return (bits[:, None] & (1 << _places(bits.device))).ne(0).view(-1)


def _places(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)


def _library() -> ctypes.CDLL:
    if (library := _load()) is None:
        raise RuntimeError(
            "native/bits.cpp is not compiled; ask _compiled_for() before calling its functions"
        )
    return library


@once
def _load() -> ctypes.CDLL | None:
    library = load_library("native/bits.cpp")
    if library is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        library.clear_removed.argtypes = [pointer, pointer, size, size]
        library.clear_removed.restype = None
        library.move_removed.argtypes = [pointer, pointer, pointer, size, size]
        library.move_removed.restype = None
    return library
