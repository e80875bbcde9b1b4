"""Euclidean norms of groups of weights; the gradient and the proximal step of their weighted sum.

Contiguous float32 weights on the CPU go through native/groups.cpp, all others through PyTorch. `SharedGroups`
has the norms of groups of weights that several processes share, also of groups that lie on two processes.
"""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_sparse.native.build import load_library, once
from hf_sparse.shards import Group, Part
from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.sharded.pieces import Piece, pieces_of
from hf_sparse.sparsity.sharded.weights import group_of
from hf_sparse.targets import Target, Targets


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


class SharedGroups:
    """The groups of weights, with what is here of them; in one process all of them.

    Values of groups, (out / rows, in / columns), are those of the groups in this part of a weight, or of all
    its groups where one lies on two processes. If processes share the weights, all of them must call the same
    methods.
    """

    def __init__(self, targets: Targets, blocks: Mapping[str, Block]) -> None:
        self.targets, self.blocks = targets, blocks
        self.pieces = pieces_of(targets, blocks)
        self.group = group_of(targets)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shape of the matrix of all groups of each weight."""
        found = self.targets.shapes.items()
        return {
            name: (rows // self.blocks[name].rows, columns // self.blocks[name].columns)
            for name, (rows, columns) in found
        }

    def norms(self) -> dict[str, Tensor]:
        """Return the norms of the groups of every weight."""
        crossing = self.crossing_norms()

        def norms(target: Target) -> tuple[str, Tensor]:
            found = crossing.get(target.name)
            return target.name, _norms_here(target, self.blocks[target.name]) if found is None else found

        return dict(parallel_map(norms, self.targets))

    def crossing_norms(self) -> dict[str, Tensor]:
        """Return the norms of the weights in which a group lies on two processes.

        Squares are added up over processes, so these norms are those of one process but for rounding.
        """
        crossing = {name: piece for name, piece in (self.pieces or {}).items() if _crosses(piece)}
        if self.group is None or not crossing:
            return {}
        summed = _sums([_squares(piece) for piece in crossing.values()], self.group)
        return {name: squares.sqrt_() for name, squares in zip(crossing, summed, strict=True)}

    def own(self, name: str, values: Tensor) -> Tensor:
        """Return values of the groups of a weight, flat, each of them on one process."""
        piece = None if self.pieces is None else self.pieces[name]
        return values.flatten() if piece is None or piece.part is not None else piece.own(values)

    def whole(self, name: str, values: Tensor) -> Tensor:
        """Return values of all groups of a weight."""
        part = None if self.pieces is None else self.pieces[name].part
        return values if part is None else part.gather(values)

    def cut(self, name: str, values: Tensor) -> Tensor:
        """Return what is here of values of all groups."""
        part = None if self.pieces is None else self.pieces[name].part
        return values if part is None else part.cut(values)

    def expand(self, name: str, values: Tensor) -> Tensor:
        """Repeat values of groups for the entries of a weight that are here, (out, in)."""
        piece = None if self.pieces is None else self.pieces[name]
        held, block = (
            None if piece is None or piece.part is not None else piece.target.part,
            self.blocks[name],
        )
        if held is None:
            return block.expand(values)
        if held.transposed:
            return Block(block.rows, 1).expand(values.index_select(1, _places(held, block.columns, values)))
        return Block(1, block.columns).expand(values.index_select(0, _places(held, block.rows, values)))

    def sum(self, values: Mapping[str, float]) -> float:
        """Return the sum over all weights of what was computed from the groups of each."""
        if self.group is None or self.pieces is None:
            return sum(values.values())
        # What every process has counts once.
        counts = [self.group.rank == 0 or self.pieces[name].part is not None for name in values]
        own = torch.tensor(list(values.values()), dtype=torch.float64) * torch.tensor(counts)
        return sum(self.group.sum(own).tolist())


def _norms_here(target: Target, block: Block) -> Tensor:
    weight = target.weight
    if weight.numel():
        return measure_groups(weight, block)
    rows, columns = weight.shape[0] // block.rows, weight.shape[1] // block.columns
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.detach().new_empty(rows, columns, dtype=dtype)


def _crosses(piece: Piece) -> bool:
    """Return whether a group of a weight may lie on two processes."""
    return piece.part is None and piece.target.part is not None


def _squares(piece: Piece) -> Tensor:
    """Return the sums of squares of the entries here, for all groups of a weight."""
    held, block, weight = piece.target.part, piece.block, piece.target.weight.detach()
    exact = (weight if weight.dtype == torch.float64 else weight.float()).square()
    sums = exact.new_zeros(piece.shape)
    if held is None or not exact.numel():
        return sums
    if held.transposed:
        return sums.index_add_(1, _places(held, block.columns, exact), Block(block.rows, 1).sums(exact))
    return sums.index_add_(0, _places(held, block.rows, exact), Block(1, block.columns).sums(exact))


def _places(part: Part, length: int, like: Tensor) -> Tensor:
    """Return the number of the block in which each row, or column, of a part lies."""
    return torch.arange(part.start, part.stop, device=like.device) // length


def _sums(values: list[Tensor], group: Group) -> list[Tensor]:
    """Return the sums of several tensors over the processes."""
    exact = torch.float64 if any(of.dtype == torch.float64 for of in values) else torch.float32
    flat = group.sum(torch.cat([of.flatten().to(exact) for of in values]))
    parts = flat.split([of.numel() for of in values])
    return [part.view(of.shape).to(of.dtype) for part, of in zip(parts, values, strict=True)]
