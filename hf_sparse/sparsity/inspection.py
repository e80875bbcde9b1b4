"""Which pattern the zeros of a model follow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np
from torch import Tensor, nn

from hf_sparse.shards import joined
from hf_sparse.sparsity.measure import SparsityReport
from hf_sparse.sparsity.numpy_ops import count_nonzero, nonzero, parallel_map
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.sparsity.sharded.weights import group_of, whole_weight
from hf_sparse.targets import Target, Targets, find_targets

CANDIDATES = (
    "row",
    "column",
    "32x32",
    "16x16",
    "8x8",
    "16x4",
    "4x4",
    "16x1",
    "1x16",
    "4x1",
    "1x4",
    *(f"{side}/{strips}" for side in ("row", "column") for strips in (2, 4, 8, 16)),
    "1:2",
    "2:4",
    "4:8",
    "1:4",
    "2:8",
    "1:8",
)
"""Patterns that are searched for; of several N:M that fit, the first one counts."""

_PLACE = re.compile(r"(?:(.*?)\.)?(\d+)\.(.+?)(?:\.weight)?(?:\[\d+\])?")


@dataclass(frozen=True)
class Place:
    """Where a weight stands: its stack of layers, its layer, and its name within that layer."""

    stack: str
    layer: int
    kind: str


@dataclass(frozen=True)
class WeightInspection:
    """The zeros of one weight matrix of shape (out, in).

    `pattern` is the one that explains them, `unstructured` if none does, None for a weight without zeros.
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    pattern: str | None

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def sparsity(self) -> float:
        return self.zeros / self.size

    @property
    def place(self) -> Place | None:
        """The place in a stack of layers, None for a name without a number; experts of a layer share one."""
        return place_of(self.name)


@dataclass(frozen=True)
class Inspection:
    """Zeros of the target weights of a model, of all parameters of its layers, of all its parameters."""

    weights: tuple[WeightInspection, ...]
    layers: SparsityReport
    whole: SparsityReport

    @property
    def targets(self) -> SparsityReport:
        return SparsityReport(
            {weight.name: weight.zeros for weight in self.weights},
            {weight.name: weight.size for weight in self.weights},
        )


def inspect_model(model: nn.Module, targets: Targets) -> Inspection:
    """Count the zeros of a model, find the pattern of every target; shared parameters count once."""
    weights = inspect_weights(targets)
    stacks = {weight.place.stack for weight in weights if weight.place is not None}
    parameters = dict(model.named_parameters())
    places = {name: place_of(name) for name in parameters}
    layers = {name: parameters[name] for name, place in places.items() if place and place.stack in stacks}
    return Inspection(weights, count_zeros(layers), count_zeros(parameters))


def place_of(name: str) -> Place | None:
    """Return the place of a parameter by its name: the first number in it is that of the layer."""
    match = _PLACE.fullmatch(name)
    return Place(match[1] or "", int(match[2]), match[3]) if match else None


def find_weight(model: nn.Module, name: str) -> Targets:
    """Return the one weight of a model, a target or not, whose name is or contains `name`.

    Raises `ValueError` if no weight, or more than one, fits.
    """
    bare = re.sub(r"(\.weight)?(\[\d+\])?$", "", name)
    found = find_targets(model, include=[re.escape(bare)]).found
    chosen = [target for target in found if target.name in (name, f"{name}.weight")] or found
    if len(chosen) > 1:
        raise ValueError(
            f"{name!r} is in the names of {len(chosen)} weights, such as {chosen[0].name} and "
            f"{chosen[1].name}; write one of them in full"
        )
    return Targets(tuple(chosen), ())


def inspect_weights(targets: Targets, candidates: Sequence[str] = CANDIDATES) -> tuple[WeightInspection, ...]:
    """Count the zeros of every target and find the pattern among the candidates that explains them.

    A block pattern explains them if at least 99 % of the zeros lie in blocks of zeros and at most 10 % of the
    other blocks is zero; of several, the largest block counts. N:M explains them if at least M - N of every M
    consecutive inputs are zero, and at most another 2 % of the weight.
    """
    patterns = [parse_pattern(candidate) for candidate in candidates]

    def inspect(target: Target) -> WeightInspection:
        filled = nonzero(whole_weight(target)).cpu().numpy()
        zeros = filled.size - int(np.count_nonzero(filled))
        return WeightInspection(target.name, filled.shape, zeros, _explain(filled, zeros, patterns))

    # Processes exchange weights that they share, in the same order.
    return tuple(parallel_map(inspect, targets) if group_of(targets) is None else map(inspect, targets))


def count_zeros(parameters: Mapping[str, Tensor]) -> SparsityReport:
    """Count the zeros of whole parameters, by their names; all processes that share them must call this."""
    return SparsityReport(
        {name: values.numel() - count_nonzero(joined(values)) for name, values in parameters.items()},
        {name: values.numel() for name, values in parameters.items()},
    )


def zero_density(weight: Tensor, most: int = 1024) -> np.ndarray:
    """Return the share of zeros in each cell of a grid over a matrix (out, in), float64.

    The grid has at most `most` cells a side. A cell has a power of two rows and columns, so that blocks fill
    it; the last cells may be smaller.
    """
    zeros = ~nonzero(weight.detach()).cpu().numpy()
    rows, columns = (_edges(length, most) for length in zeros.shape)
    counts = np.add.reduceat(np.add.reduceat(zeros.astype(np.int64), rows[:-1], axis=0), columns[:-1], axis=1)
    return counts / np.outer(np.diff(rows), np.diff(columns))


def _explain(filled: np.ndarray, zeros: int, patterns: Sequence[Pattern]) -> str | None:
    if not zeros:
        return None
    best, largest = str(UNSTRUCTURED), 1
    for pattern in patterns:
        try:
            block = pattern.fit("", filled.shape)
        except ValueError:
            continue
        # N:M has blocks of one entry, and is tried only while no larger block explains the zeros.
        if (block.size > largest or best == str(UNSTRUCTURED)) and block.explains(filled, zeros):
            best, largest = str(pattern), block.size
    return best


def _edges(length: int, most: int) -> np.ndarray:
    side = 2 ** max(ceil(log2(length / most)), 0)
    return np.append(np.arange(0, length, side), length)
