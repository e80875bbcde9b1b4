"""Euclidean norms of groups of weights; the gradient and the proximal step of their weighted sum.

Contiguous float32 weights on the CPU go through native/groups.cpp, all others through PyTorch.
"""

import ctypes

import torch
from torch import Tensor

from hf_sparse.native.build import load_library, once
from hf_sparse.sparsity.patterns.block import Block


def group_norms(weight: Tensor, block: Block) -> Tensor:
    """Return the norms of the groups of a weight (out, in), (out / rows, in / columns); differentiable.

    The gradient of a group of zeros is zero.
    """
    rows, columns = weight.shape
    tiles = weight.reshape(rows // block.rows, block.rows, columns // block.columns, block.columns)
    return torch.linalg.vector_norm(tiles, dim=(1, 3))


def measure_groups(weight: Tensor, block: Block) -> Tensor:
    """Return the same numbers without a gradient, in float32 at least."""
    weight = weight.detach()
    if _is_transposed(weight):
        return measure_groups(weight.t(), _turned(block)).t()
    if runs_compiled(weight):
        return _norms(weight, block.rows, block.columns)
    exact = weight if weight.dtype == torch.float64 else weight.float()
    return block.pool(exact.square()).sqrt_()


def add_gradient(
    weight: Tensor, gradient: Tensor, block: Block, factors: Tensor, scale: float = 1.0
) -> float:
    """Add the gradient of scale * sum_g factors_g ||w_g|| to a gradient (out, in), in place; return that sum.

    The gradient is scale * factors_g * w / ||w_g||, and zero in groups of zeros. `factors` are (out / rows,
    in / columns), float32 unless the weight is float64.
    """
    weight = weight.detach()
    if _is_transposed(weight):
        return add_gradient(weight.t(), gradient.t(), _turned(block), factors.t().contiguous(), scale)
    if runs_compiled(weight, gradient, factors):
        return _add_gradient(weight, gradient, factors, scale, block.rows, block.columns)
    norms = measure_groups(weight, block)
    rates = torch.where(norms > 0, scale * factors / norms, 0.0)
    gradient.add_(block.expand(rates).mul(weight))
    return scale * float((factors * norms).sum())


def shorten_groups(weight: Tensor, block: Block, rates: Tensor, scale: float = 1.0) -> None:
    """Shorten every group of a weight (out, in) by scale times its rate, in place, at most to zero."""
    weight = weight.detach()
    if _is_transposed(weight):
        shorten_groups(weight.t(), _turned(block), rates.t().contiguous(), scale)
    elif runs_compiled(weight, rates):
        _shorten(weight, rates, scale, block.rows, block.columns)
    else:
        norms = measure_groups(weight, block)
        factors = torch.where(norms > 0, 1 - scale * rates / norms, 0.0).clamp_(min=0)
        weight.mul_(block.expand(factors).to(weight.dtype))


def _is_transposed(weight: Tensor) -> bool:
    """Return whether a weight lies in memory as its transpose, as in a Conv1D."""
    return weight.stride(0) == 1 < weight.stride(1)


def _turned(block: Block) -> Block:
    return Block(block.columns, block.rows)


_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SHAPE = (_SIZE,) * 4


def runs_compiled(*values: Tensor) -> bool:
    """Return whether groups.cpp takes these tensors, and could be compiled."""
    return all(_is_plain(value) for value in values) and _load() is not None


def _norms(weight: Tensor, tall: int, wide: int) -> Tensor:
    """Return the Euclidean _norms of the groups, (rows / tall, columns / wide)."""
    rows, columns = weight.shape
    # `torch.empty` would use the default dtype and device, which a program may have changed.
    found = weight.new_empty(rows // tall, columns // wide)
    _library().group_norms(weight.data_ptr(), *_sizes(weight, tall, wide), _scratch(weight), found.data_ptr())
    return found


def _add_gradient(
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


def _shorten(weight: Tensor, rates: Tensor, scale: float, tall: int, wide: int) -> None:
    """Apply the proximal step, in place: multiply groups by max(0, 1 - scale * rates / ||w||)."""
    _library().shorten_groups(
        weight.data_ptr(), rates.data_ptr(), scale, *_sizes(weight, tall, wide), _scratch(weight)
    )


def _is_plain(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype == torch.float32 and value.is_contiguous()


def _sizes(weight: Tensor, tall: int, wide: int) -> tuple[int, int, int, int]:
    return (*weight.shape, tall, wide)


def _scratch(weight: Tensor) -> ctypes.Array:
    """Return two rows of floats, which live as long as the call that they are passed to."""
    return (_FLOAT * (2 * weight.shape[1]))()


def _library() -> ctypes.CDLL:
    """Return the library; raise `RuntimeError` where `runs_compiled` returns False."""
    if (library := _load()) is None:
        raise RuntimeError(
            "native/groups.cpp is not compiled; ask runs_compiled() before calling its functions"
        )
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
