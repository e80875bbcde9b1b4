"""Euclidean norms of groups of weights; the gradient and the proximal step of their weighted sum.

Contiguous float32 weights on the CPU go through native/groups.cpp, all others through PyTorch.
"""

import torch
from torch import Tensor

from hf_sparse.native import groups as native
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
    if native.suits(weight):
        return native.norms(weight, block.rows, block.columns)
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
    if native.suits(weight, gradient, factors):
        return native.add_gradient(weight, gradient, factors, scale, block.rows, block.columns)
    norms = measure_groups(weight, block)
    rates = torch.where(norms > 0, scale * factors / norms, 0.0)
    gradient.add_(block.expand(rates).mul(weight))
    return scale * float((factors * norms).sum())


def shorten_groups(weight: Tensor, block: Block, rates: Tensor, scale: float = 1.0) -> None:
    """Shorten every group of a weight (out, in) by scale times its rate, in place, at most to zero."""
    weight = weight.detach()
    if _is_transposed(weight):
        shorten_groups(weight.t(), _turned(block), rates.t().contiguous(), scale)
    elif native.suits(weight, rates):
        native.shorten(weight, rates, scale, block.rows, block.columns)
    else:
        norms = measure_groups(weight, block)
        factors = torch.where(norms > 0, 1 - scale * rates / norms, 0.0).clamp_(min=0)
        weight.mul_(block.expand(factors).to(weight.dtype))


def _is_transposed(weight: Tensor) -> bool:
    """Return whether a weight lies in memory as its transpose, as in a Conv1D."""
    return weight.stride(0) == 1 < weight.stride(1)


def _turned(block: Block) -> Block:
    return Block(block.columns, block.rows)
