"""Parts of layers that can be taken out whole: what they compute, which of them compute nothing, the cut."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse.targets import Target, find_targets


@dataclass(frozen=True)
class Structures(ABC):
    """The neurons, or attention heads, of one layer: some rows each of the matrices into them, columns out.

    `name` is that of the layer; each of `count` has the same share of consecutive rows of `into`, (out, in),
    and of the columns of `out`.
    """

    name: str
    into: tuple[Target, ...]
    out: Target
    count: int

    @property
    def members(self) -> int:
        """How many that can only go together one of `count` stands for."""
        return 1

    @abstractmethod
    def constant(self) -> tuple[Tensor, Tensor]:
        """Return which give the same whatever comes in, (count,), and what: a value for each column out."""

    def unread(self, count: int) -> Tensor:
        """Return which of so many have nothing but zeros in their columns out, (count,)."""
        return filled(self.out.weight, 0).view(count, -1).any(1).logical_not()

    def dispensable(self) -> Tensor:
        """Return which are constant and whose part a bias can take, if they have one, (count,)."""
        constant, given = self.constant()
        return constant if self.out.module.bias is not None else constant & ~given.view(self.count, -1).any(1)

    def dead(self) -> list[int]:
        """Return in order those that can go."""
        return (self.unread(self.count) | self.dispensable()).nonzero().flatten().tolist()

    def idle(self) -> int:
        """Return how many have no part in the output but a constant one, each looked at alone."""
        dispensable = self.dispensable().repeat_interleave(self.members)
        return int((self.unread(self.count * self.members) | dispensable).sum())

    def shapes(self, gone: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its parameters, by name, once so many are gone."""
        left = self.count - gone
        shapes = {}
        for target in (*self.into, self.out):
            rows, columns = target.weight.shape
            if target is self.out:
                shape = (rows, columns // self.count * left)
            else:
                shape = (rows // self.count * left, columns)
                if target.module.bias is not None:
                    shapes[f"{target.name.removesuffix('weight')}bias"] = shape[:1]
            shapes[target.name] = shape[::-1] if target.transposed else shape
        return shapes

    def remove(self, gone: Sequence[int]) -> None:
        """Take out some of the dead, in place; what constant ones give goes into the bias behind them."""
        leave = torch.zeros(self.count, dtype=torch.bool, device=self.out.weight.device)
        leave[list(gone)] = True
        constant, given = self.constant()
        if self.out.module.bias is not None:
            folded = (leave & constant).repeat_interleave(len(given) // self.count)
            with torch.no_grad():
                self.out.module.bias += self.out.weight[:, folded] @ given[folded]
        for target in (*self.into, self.out):
            _cut(target, ~leave, outputs=target is not self.out)


def bias_of(target: Target) -> Tensor:
    """Return the bias of a target's module, zeros if there is none."""
    bias = target.module.bias
    return target.weight.new_zeros(len(target.weight)) if bias is None else bias.detach()


def filled(weight: Tensor, dim: int) -> Tensor:
    """Return where a weight has anything but zeros along a dimension; `any` takes several times as long."""
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
    if outputs and module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[keep])
    if isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    else:
        module.out_features, module.in_features = module.weight.shape
