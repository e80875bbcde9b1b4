"""Which blocks of a weight a process ranks, where several processes share the weights of a model.

A process ranks the blocks of its part. Where an edge between two parts lies inside a block, and for weights
that every process holds whole, the blocks are divided anew, and the choice is exchanged afterwards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import lcm

import torch
from torch import Tensor

from hf_sparse.shards import Group, Part
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from hf_sparse.sparsity.sharded.selection import Place, Share
from hf_sparse.sparsity.sharded.weights import group_of, whole_weight
from hf_sparse.targets import Target, Targets


@dataclass(frozen=True)
class Piece:
    """The blocks of one weight that this process ranks."""

    target: Target
    block: Block
    group: Group

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix of all blocks."""
        rows, columns = self.target.shape
        return rows // self.block.rows, columns // self.block.columns

    @property
    def size(self) -> int:
        """The number of all blocks."""
        return self.shape[0] * self.shape[1]

    @cached_property
    def part(self) -> Part | None:
        """Which blocks lie in the part of the weight on each process; None if they are divided anew."""
        held = self.target.part
        if held is None:
            return None
        across = self.block.columns if held.transposed else self.block.rows
        # Groups of N:M compete along the columns.
        if held.transposed and held.in_units(lcm(across, self.block.group)) is None:
            return None
        return held.in_units(across)

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Where the blocks of each process begin if they are divided anew, in row-major order."""
        return tuple(self.size * rank // self.group.size for rank in range(self.group.size + 1))

    @property
    def place(self) -> Place:
        """Where the ranked blocks lie among all blocks, in row-major order."""
        width = self.shape[1]
        if self.part is None:
            return Place(self.edges[self.group.rank])
        if self.part.transposed:
            return Place(self.part.start, max(self.part.stop - self.part.start, 1), width)
        return Place(self.part.start * width)

    @cached_property
    def adds_up_here(self) -> bool:
        """Whether the scores of blocks are the same bits if they are computed from this part alone."""
        if self.part is None or type(self.block) not in (Block, NOfM):
            return False
        rows, columns = self.target.shape
        sides = 1 < self.block.rows == rows or 1 < self.block.columns == columns
        on_cpu = self.target.parameter.device.type == "cpu"
        # Reductions of a whole side depend on the number of results on other devices.
        return (on_cpu or not sides) and (self.block.rows == 1 or columns > 1)

    def own(self, blocks: Tensor) -> Tensor:
        """Return of values for all blocks those that this process ranks, flat."""
        if self.part is not None:
            return self.part.cut(blocks).flatten()
        return blocks.flatten()[self.edges[self.group.rank] : self.edges[self.group.rank + 1]]

    def pooled(self, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the scores of the ranked blocks, flat; `pool` computes those of a matrix (out, in)."""
        if not self.adds_up_here:
            return self.own(pool(whole_weight(self.target)))
        weight = self.target.weight.detach()
        if weight.numel():
            return pool(weight).flatten()
        return weight.new_empty(0, dtype=weight.dtype if weight.dtype == torch.float64 else torch.float32)

    def share(self, values: Tensor) -> Share:
        """Return what this process adds to a ranking, from the values that it ranks."""
        return Share(values, self.place, self.size)

    def expand(self, keep: Tensor) -> Tensor:
        """Return the mask of what is here of the weight, from flags of `exchange`."""
        if self.part is not None:
            start, stop = self.part.start, self.part.stop
            rows, columns = self.shape
            here = (rows, stop - start) if self.part.transposed else (stop - start, columns)
            return self.block.expand(keep.view(here))
        mask, held = self.block.expand(keep.view(self.shape)), self.target.part
        return mask if held is None else held.cut(mask)


def pieces_of(targets: Targets, blocks: Mapping[str, Block]) -> dict[str, Piece] | None:
    """Return the blocks that this process ranks, by weight; None if no other process shares the weights."""
    group = group_of(targets)
    if group is None:
        return None
    held = [target for target in targets if target.name in blocks]
    return {target.name: Piece(target, blocks[target.name], group) for target in held}


def exchange(pieces: Sequence[Piece], flags: Sequence[Tensor]) -> list[Tensor]:
    """Return flags of the blocks of each weight: those of this part, or all if they are divided anew."""
    anew = [index for index, piece in enumerate(pieces) if piece.part is None]
    found = list(flags)
    if not anew:
        return found
    group = pieces[anew[0]].group
    lengths = [
        [pieces[index].edges[rank + 1] - pieces[index].edges[rank] for index in anew]
        for rank in range(group.size)
    ]
    edges = list(accumulate(map(sum, lengths), initial=0))
    joined = group.gather(torch.cat([flags[index] for index in anew]), edges)
    by_rank = [
        joined[start:stop].split(own) for start, stop, own in zip(edges, edges[1:], lengths, strict=False)
    ]
    for place, index in enumerate(anew):
        found[index] = torch.cat([of[place] for of in by_rank])
    return found
