"""groups.cpp on tensors: contiguous matrices of float32 on the CPU, their groups tall x wide."""

import ctypes

import torch
from torch import Tensor

from hf_sparse.native.building import load_library, once

_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SHAPE = (_SIZE,) * 4


def suits(*values: Tensor) -> bool:
    """Say whether the functions of this file take these, which they do where they could be compiled."""
    return all(_suits(value) for value in values) and _library() is not None


def norms(weight: Tensor, tall: int, wide: int) -> Tensor:
    """Return the norms of groups of tall x wide weights, (rows / tall, columns / wide)."""
    rows, columns = weight.shape
    # Not torch.empty, whose dtype and device a program may have set.
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


def shrink(weight: Tensor, rates: Tensor, scale: float, tall: int, wide: int) -> None:
    """Multiply groups by max(0, 1 - scale * rates / ||w||), in place."""
    _library().shrink_groups(
        weight.data_ptr(), rates.data_ptr(), scale, *_sizes(weight, tall, wide), _scratch(weight)
    )


def _suits(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype == torch.float32 and value.is_contiguous()


def _sizes(weight: Tensor, tall: int, wide: int) -> tuple[int, int, int, int]:
    return (*weight.shape, tall, wide)


def _scratch(weight: Tensor) -> ctypes.Array:
    """Return two rows of floats, which live as long as the call that they are passed to."""
    return (_FLOAT * (2 * weight.shape[1]))()


@once
def _library() -> ctypes.CDLL | None:
    library = load_library("native/groups.cpp")
    if library is not None:
        library.group_norms.argtypes = [_POINTER, *_SHAPE, _POINTER, _POINTER]
        library.group_norms.restype = None
        library.add_group_gradient.argtypes = [_POINTER] * 3 + [_FLOAT, *_SHAPE, _POINTER]
        library.add_group_gradient.restype = ctypes.c_double
        library.shrink_groups.argtypes = [_POINTER] * 2 + [_FLOAT, *_SHAPE, _POINTER]
        library.shrink_groups.restype = None
    return library
