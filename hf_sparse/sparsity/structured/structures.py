"""Structures, parts of layers that can be removed whole: which of them compute nothing, and their removal."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse.targets import Target, find_targets


@dataclass(frozen=True)
class Structures(ABC):
    """The neurons or attention heads of one layer: rows of the matrices into it, columns of the one out.

    `name` is that of the layer. Each of `count` structures has the same number of consecutive rows of every
    matrix of `into`, (out, in), and of consecutive columns of `out`.
    """

    name: str
    into: tuple[Target, ...]
    out: Target
    count: int

    @property
    def members(self) -> int:
        """Heads per group; the heads of a group are removed together. Neurons are removed one by one."""
        return 1

    @abstractmethod
    def constant(self) -> tuple[Tensor, Tensor]:
        """Return a mask (count,) of structures with constant output, and that output for each column out."""

    @abstractmethod
    def changes(self, model: PreTrainedModel, gone: int) -> dict[str, Any]:
        """Return the settings of the configuration that change once `gone` structures are removed."""

    def unread(self, count: int) -> Tensor:
        """Return a mask (count,) of structures whose columns out are zero, if there are `count` of them."""
        return filled(self.out.weight, 0).view(count, -1).any(1).logical_not()

    def dispensable(self) -> Tensor:
        """Return a mask (count,) of constant structures whose output is zero or can go into a bias."""
        constant, given = self.constant()
        return constant if self.out.bias is not None else constant & ~given.view(self.count, -1).any(1)

    def dead(self) -> list[int]:
        """Return the numbers of the structures that can be removed, in order."""
        return (self.unread(self.count) | self.dispensable()).nonzero().flatten().tolist()

    def idle(self) -> int:
        """Return how many structures add a constant or nothing to the output; each head counts alone."""
        dispensable = self.dispensable().repeat_interleave(self.members)
        return int((self.unread(self.count * self.members) | dispensable).sum())

    def shapes(self, gone: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's parameters by name, once `gone` structures are removed."""
        left = self.count - gone
        shapes: dict[str, tuple[int, ...]] = {}
        for target in (*self.into, self.out):
            rows, columns = target.shape
            if target is self.out:
                columns = columns // self.count * left
            else:
                rows = rows // self.count * left
                if target.bias is not None:
                    shapes[f"{target.name.removesuffix('weight')}bias"] = (rows,)
            shapes[target.name] = (columns, rows) if target.transposed else (rows, columns)
        return shapes

    def remove(self, gone: Sequence[int]) -> None:
        """Remove some of the dead, in place; constant outputs go into the bias of the next layer."""
        leave = torch.zeros(self.count, dtype=torch.bool, device=self.out.weight.device)
        leave[list(gone)] = True
        constant, given = self.constant()
        if self.out.bias is not None:
            folded = (leave & constant).repeat_interleave(len(given) // self.count)
            with torch.no_grad():
                self.out.bias.add_(self.out.weight[:, folded] @ given[folded])
        for target in (*self.into, self.out):
            _cut(target, ~leave, outputs=target is not self.out)


def bias_of(target: Target) -> Tensor:
    """Return the bias of a target's module, zeros if it has none."""
    bias = target.bias
    return target.weight.new_zeros(len(target.weight)) if bias is None else bias.detach()


def filled(weight: Tensor, dim: int) -> Tensor:
    """Return where a weight is not all zeros along a dimension; `any` would be several times slower."""
    return weight.detach().count_nonzero(dim) > 0


def by_layer(model: PreTrainedModel) -> Mapping[str, list[Target]]:
    """Return the targets of each layer, by the beginning of their names up to its number.

    Raises `ValueError` where they are not all Linears or Conv1Ds.
    """
    layers: dict[str, list[Target]] = {}
    for target in find_targets(model):
        if type(target.module) not in (nn.Linear, Conv1D):
            raise ValueError(
                f"{target.name} belongs to a {type(target.module).__name__}; only models of floats and of "
                "Linears can be shrunk, and none once it is quantized"
            )
        parts = target.name.split(".")
        number = next(index for index, part in enumerate(parts) if part.isdecimal())
        layers.setdefault(".".join(parts[: number + 1]), []).append(target)
    return layers


def _cut(target: Target, keep: Tensor, outputs: bool) -> None:
    """Leave only some structures' outputs, or inputs, of a Linear or Conv1D."""
    module, weight = target.module, target.weight.detach()
    keep = keep.to(weight.device).repeat_interleave(weight.shape[0 if outputs else 1] // len(keep))
    weight = weight[keep] if outputs else weight[:, keep]
    module.weight = nn.Parameter((weight.t() if target.transposed else weight).contiguous())
    if outputs and target.bias is not None:
        module.bias = nn.Parameter(target.bias.detach()[keep])
    if isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
