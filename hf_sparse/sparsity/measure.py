"""Measurement of the sparsity of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from hf_sparse.sparsity.sharded.weights import count_filled
from hf_sparse.targets import Targets, find_targets


@dataclass(frozen=True)
class SparsityReport:
    """Zeros among the target weights of a model; every sparsity is a share of zeros in [0, 1].

    Attributes:
        zeros_per_target: Number of zeros in each weight, by name.
        size_per_target: Number of entries of each weight, by name.
        zeros: Number of zeros in all weights.
        total: Number of entries of all weights.
        overall: Share of zeros in all weights.
        per_target: Share of zeros in each weight, by name.
    """

    zeros_per_target: Mapping[str, int]
    size_per_target: Mapping[str, int]

    @property
    def zeros(self) -> int:
        return sum(self.zeros_per_target.values())

    @property
    def total(self) -> int:
        return sum(self.size_per_target.values())

    @property
    def overall(self) -> float:
        return self.zeros / self.total

    @property
    def per_target(self) -> dict[str, float]:
        return {name: zeros / self.size_per_target[name] for name, zeros in self.zeros_per_target.items()}


def measure_sparsity(model: nn.Module, targets: Targets | None = None) -> SparsityReport:
    """Count the zeros in the target weights of a model.

    If several processes share the weights (FSDP2), all of them must call this, and get the same counts.

    Args:
        model: any model.
        targets: the weights to count in; by default those of `find_targets`.

    Returns:
        Zeros and sizes by weight; `overall` is the share of zeros in [0, 1].

    Raises:
        ValueError: Without `targets`, if the model has nothing to prune.
    """
    found = targets or find_targets(model)
    sizes = {name: prod(shape) for name, shape in found.shapes.items()}
    filled = count_filled(found)
    return SparsityReport({name: size - filled[name] for name, size in sizes.items()}, sizes)
