"""Norms of groups of weights that several processes share, also of groups that lie on two processes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_sparse.shards import Group, Part
from hf_sparse.sparsity.groups import measure_groups
from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.sharded.pieces import Piece, pieces_of
from hf_sparse.sparsity.sharded.weights import group_of
from hf_sparse.targets import Target, Targets


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
            return target.name, _norms(target, self.blocks[target.name]) if found is None else found

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


def _norms(target: Target, block: Block) -> Tensor:
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
