"""Call groups.cpp on contiguous float32 matrices on the CPU, whose groups are tall x wide."""

import ctypes

import torch
from torch import Tensor

from hf_sparse.native.build import load_library, once

_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SHAPE = (_SIZE,) * 4


def suits(*values: Tensor) -> bool:
    """Return whether the functions of this file take these tensors, and could be compiled."""
    return all(_suits(value) for value in values) and _load() is not None


def norms(weight: Tensor, tall: int, wide: int) -> Tensor:
    """Return the Euclidean norms of the groups, (rows / tall, columns / wide)."""
    rows, columns = weight.shape
    # `torch.empty` would use the default dtype and device, which a program may have changed.
    found = weight.new_empty(rows // tall, columns // wide)
    _library().group_norms(weight.data_ptr(), *_sizes(weight, tall, wide), _scratch(weight), found.data_ptr())
    return found


def add_gradient(
    weight: Tensor, gradient: Tensor, factors: Tensor, scale: float, tall: int, wide: int
) -> float:
    """Add scale * factors * w / ||w|| to a gradient, in place; return scale * sum(factors * ||w||)."""
    return _library().add_group_gradient(
        weight.data_ptr(),
        gradient.data_ptr(),
        factors.data_ptr(),
        scale,
        *_sizes(weight, tall, wide),
        _scratch(weight),
    )


def shorten(weight: Tensor, rates: Tensor, scale: float, tall: int, wide: int) -> None:
    """Apply the proximal step, in place: multiply groups by max(0, 1 - scale * rates / ||w||)."""
    _library().shorten_groups(
        weight.data_ptr(), rates.data_ptr(), scale, *_sizes(weight, tall, wide), _scratch(weight)
    )


def _suits(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype == torch.float32 and value.is_contiguous()


def _sizes(weight: Tensor, tall: int, wide: int) -> tuple[int, int, int, int]:
    return (*weight.shape, tall, wide)


def _scratch(weight: Tensor) -> ctypes.Array:
    """Return two rows of floats, which live as long as the call that they are passed to."""
    return (_FLOAT * (2 * weight.shape[1]))()


def _library() -> ctypes.CDLL:
    """Return the library; raise `RuntimeError` where `suits` returns False."""
    if (library := _load()) is None:
        raise RuntimeError("native/groups.cpp is not compiled; ask suits() before calling its functions")
    return library


@once
def _load() -> ctypes.CDLL | None:
    library = load_library("native/groups.cpp")
    if library is not None:
        library.group_norms.argtypes = [_POINTER, *_SHAPE, _POINTER, _POINTER]
        library.group_norms.restype = None
        library.add_group_gradient.argtypes = [_POINTER] * 3 + [_FLOAT, *_SHAPE, _POINTER]
        library.add_group_gradient.restype = ctypes.c_double
        library.shorten_groups.argtypes = [_POINTER] * 2 + [_FLOAT, *_SHAPE, _POINTER]
        library.shorten_groups.restype = None
    return library
