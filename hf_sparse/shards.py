"""Weights that several processes share (FSDP2): which part of each is on this process, and how parts join."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Group:
    """The processes among which weights are divided; every one of them must call each method."""

    processes: "torch.distributed.ProcessGroup"
    device: str

    @property
    def rank(self) -> int:
        """The place of this process among them."""
        return torch.distributed.get_rank(self.processes)

    @property
    def size(self) -> int:
        """How many processes there are."""
        return torch.distributed.get_world_size(self.processes)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, on its own device."""
        total = values.detach().to(self.device, copy=True).contiguous()
        torch.distributed.all_reduce(total, group=self.processes)
        return total.to(values.device)

    def totals(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of counts over the processes."""
        return self.sum(torch.tensor(counts, dtype=torch.int64)).tolist() if counts else []

    def largest(self, value: float) -> float:
        """Return the largest of the numbers of all processes."""
        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, self.processes)
        return float(found)

    def agree(self, flags: Sequence[bool]) -> list[bool]:
        """Return which of several statements are true on all processes."""
        return [missing == 0 for missing in self.totals([not flag for flag in flags])]

    def gather(self, values: Tensor, edges: Sequence[int]) -> Tensor:
        """Return the parts of all processes, joined along the first dimension.

        Args:
            values: The part of this process.
            edges: Where the part of each process begins, and the end of the last one.
        """
        sizes = [stop - start for start, stop in zip(edges, edges[1:], strict=False)]
        row = values.shape[1:]
        # As bytes: not every backend sends every type of numbers.
        own = values.detach().contiguous().flatten().view(torch.uint8).to(self.device)
        width = row.numel() * values.element_size()
        owners = [rank for rank, size in enumerate(sizes) if size]
        if len(owners) == 1:
            found = own if owners == [self.rank] else own.new_empty(edges[-1] * width)
            source = torch.distributed.get_global_rank(self.processes, owners[0])
            torch.distributed.broadcast(found, source, group=self.processes)
        else:
            longest = max(sizes) * width
            padded = torch.cat([own, own.new_zeros(longest - own.numel())])
            parts = [torch.empty_like(padded) for _ in sizes]
            torch.distributed.all_gather(parts, padded, group=self.processes)
            found = torch.cat([part[: size * width] for part, size in zip(parts, sizes, strict=True)])
        return found.to(values.device).view(values.dtype).view(edges[-1], *row)


@dataclass(frozen=True)
class Part:
    """The part of a matrix (out, in) that each process of a group holds.

    Attributes:
        edges: where the rows of each process begin in the stored matrix, and the end of the last one.
        transposed: whether the matrix is stored as (in, out), so that these rows are columns.
        group: the processes.
    """

    edges: tuple[int, ...]
    transposed: bool
    group: Group

    @property
    def start(self) -> int:
        """The first row or column of this process."""
        return self.edges[self.group.rank]

    @property
    def stop(self) -> int:
        """The end of the rows or columns of this process."""
        return self.edges[self.group.rank + 1]

    def gather(self, values: Tensor) -> Tensor:
        """Return the whole matrix (out, in), from the part of this process; all processes must call it."""
        if self.transposed:
            return self.group.gather(values.t(), self.edges).t()
        return self.group.gather(values, self.edges)

    def cut(self, whole: Tensor) -> Tensor:
        """Return the part of this process of a whole matrix (out, in), as a view."""
        return whole.narrow(int(self.transposed), self.start, self.stop - self.start)

    def in_units(self, length: int) -> "Part | None":
        """Return the same part, counted in `length` rows or columns; None if an edge lies inside a unit."""
        if any(edge % length for edge in self.edges):
            return None
        return replace(self, edges=tuple(edge // length for edge in self.edges))


def as_shared(values: Tensor) -> "DTensor | None":
    """Return a tensor as a `DTensor`, None if it is an ordinary one."""
    if type(values) in (Tensor, nn.Parameter) or not torch.distributed.is_available():
        return None
    from torch.distributed.tensor import DTensor

    return values if isinstance(values, DTensor) else None


def refused_placements(parameter: Tensor) -> str | None:
    """Return the placements of a parameter that processes share in another way than FSDP2 divides it.

    Each dimension of the mesh may replicate the parameter, and one may divide the rows of the stored tensor.
    Returns None for these, and for ordinary parameters.
    """
    shared = as_shared(parameter)
    return None if shared is None or _is_supported(shared) else str(shared.placements)


def matrix_of(parameter: Tensor, values: Tensor, expert: int | None, transposed: bool) -> Tensor:
    """Return the (out, in) matrix of an expert, or of a 2-D parameter, as a view: of it what is here.

    Args:
        parameter: The parameter.
        values: A tensor shaped like the parameter, or like the part of it on this process.
        expert: The number of the expert in a 3-D parameter.
        transposed: Whether the parameter is (in, out).
    """
    shared, held = as_shared(parameter), as_shared(values)
    values = values if held is None else held.to_local()
    if expert is not None:
        whole = shared is None or (held is None and values.shape == parameter.shape)
        divided = None if shared is None or whole else _edges(shared)
        first = 0 if divided is None else divided[1][divided[0].rank]
        here = 0 <= expert - first < len(values)
        values = values[expert - first] if here else values.new_empty((0, *values.shape[2:]))
    return values.t() if transposed else values


def part_of(parameter: Tensor, expert: int | None, transposed: bool) -> Part | None:
    """Return which part of a matrix each process holds; None if this process holds all of it."""
    shared = as_shared(parameter)
    found = None if shared is None else _edges(shared)
    if found is None:
        return None
    group, edges = found
    if expert is not None:
        rows = parameter.shape[1]
        edges = tuple(rows if edge > expert else 0 for edge in edges)
    return Part(edges, transposed, group)


def joined(values: Tensor) -> Tensor:
    """Return a whole tensor, without its gradient; all processes that share it must call this."""
    shared = as_shared(values)
    return values.detach() if shared is None else shared.full_tensor().detach()


def local_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of what a process holds of a parameter."""
    shared = as_shared(parameter)
    return parameter.shape if shared is None else shared.to_local().detach().shape


def reshard(model: nn.Module) -> None:
    """Let go of whole weights that FSDP2 has gathered for a forward pass, so that each process has its part.

    After an evaluation the weights of the outermost group are still whole, and what is written into them is
    lost. Call it before weights are read or written outside of a step; a model without FSDP2 is left alone.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _edges(shared: "DTensor") -> tuple[Group, tuple[int, ...]] | None:
    """Return the group that divides a tensor, and where the rows of each process begin; None if whole."""
    for dimension, placement in enumerate(shared.placements):
        if placement.is_shard():
            mesh = shared.device_mesh
            # As torch.chunk divides.
            rows, chunk = len(shared), -(-len(shared) // mesh.size(dimension))
            edges = tuple(min(rank * chunk, rows) for rank in range(mesh.size(dimension) + 1))
            return Group(mesh.get_group(dimension), mesh.device_type), edges
    return None


def _is_supported(shared: "DTensor") -> bool:
    from torch.distributed.tensor import Replicate, Shard

    # `type`, since tensor parallelism beneath FSDP2 has a subclass of Shard.
    dividing = [placement for placement in shared.placements if type(placement) is not Replicate]
    if not dividing:
        return True
    if len(dividing) > 1 or type(dividing[0]) is not Shard or dividing[0].dim != 0:
        return False
    found = _edges(shared)
    if found is None or shared.is_meta:
        return True
    group, edges = found
    return len(shared.to_local().detach()) == edges[group.rank + 1] - edges[group.rank]
