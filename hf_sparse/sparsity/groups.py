"""Euclidean norms of groups of weights, and the gradient of their weighted sum, without a dense temporary."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.patterns.block import Block

# Weights worked on at a time: they, their gradients and a buffer stay in the cache of a core.
_BAND = 1 << 16


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
    if not _suits_numpy(weight):
        return group_norms(weight if weight.dtype == torch.float64 else weight.float(), block)
    if _is_transposed(weight):
        return measure_groups(weight.t(), _turned(block)).t()
    array = weight.numpy()
    squares = [block.pool(np.square(array[rows])) for rows in _bands(array, block)]
    return torch.from_numpy(np.sqrt(np.concatenate(squares)))


def add_gradient(weight: Tensor, gradient: Tensor, block: Block, factors: Tensor) -> float:
    """Add the gradient of sum_g factors_g ||w_g|| to a gradient (out, in), in place; return that sum.

    The gradient is factors_g w / ||w_g||, and zero in groups of zeros. `factors` are (out / rows,
    in / columns), float32 unless the weight is float64.
    """
    weight = weight.detach()
    if not (_suits_numpy(weight) and gradient.dtype == weight.dtype):
        return _add_by_torch(weight, gradient, block, factors)
    if _is_transposed(weight):
        return add_gradient(weight.t(), gradient.t(), _turned(block), factors.t())
    array, target, shares = weight.numpy(), gradient.numpy(), factors.numpy()
    buffer, total = None, 0.0
    for rows in _bands(array, block):
        band = array[rows]
        buffer = np.empty_like(band) if buffer is None else buffer
        part = buffer[: len(band)]
        norms = np.sqrt(block.pool(np.square(band, out=part)))
        share = shares[rows.start // block.rows :][: len(norms)]
        total += float(np.vdot(share, norms))
        rates = np.divide(share, norms, out=np.zeros_like(norms), where=norms > 0)
        wide = np.repeat(rates, block.columns, axis=1) if block.columns > 1 else rates
        for row in range(block.rows):
            np.multiply(band[row :: block.rows], wide, out=part[row :: block.rows])
        target[rows] += part
    return total


def shrink_groups(weight: Tensor, block: Block, rates: Tensor) -> None:
    """Shorten every group of a weight (out, in) by its rate, in place, to zero at most."""
    weight = weight.detach()
    if not _suits_numpy(weight):
        norms = measure_groups(weight, block)
        factors = torch.where(norms > 0, 1 - rates / norms, 0.0).clamp_(min=0)
        weight.mul_(block.expand(factors).to(weight.dtype))
        return
    if _is_transposed(weight):
        shrink_groups(weight.t(), _turned(block), rates.t())
        return
    array, shares = weight.numpy(), rates.numpy()
    for rows in _bands(array, block):
        band = array[rows]
        norms = np.sqrt(block.pool(np.square(band)))
        share = shares[rows.start // block.rows :][: len(norms)]
        factors = 1 - np.divide(share, norms, out=np.ones_like(norms), where=norms > 0)
        np.maximum(factors, 0, out=factors)
        wide = np.repeat(factors, block.columns, axis=1) if block.columns > 1 else factors
        for row in range(block.rows):
            band[row :: block.rows] *= wide


def _add_by_torch(weight: Tensor, gradient: Tensor, block: Block, factors: Tensor) -> float:
    norms = measure_groups(weight, block)
    rates = torch.where(norms > 0, factors / norms, 0.0)
    gradient.add_((block.expand(rates) * weight).to(gradient.dtype))
    return float((factors * norms).sum())


def _bands(array: np.ndarray, block: Block) -> Iterator[slice]:
    rows = max(_BAND // array.shape[1] // block.rows, 1) * block.rows
    for first in range(0, len(array), rows):
        yield slice(first, min(first + rows, len(array)))


def _suits_numpy(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


def _is_transposed(weight: Tensor) -> bool:
    """Say whether it lies in memory as its transpose would, as in a Conv1D."""
    return weight.stride(0) == 1 < weight.stride(1)


def _turned(block: Block) -> Block:
    return Block(block.columns, block.rows)
