"""Weights in rows of layers and columns of kinds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hf_sparse.sparsity.inspection import WeightInspection

# With more kinds than these, the number in the names is not that of equal layers.
_MOST_KINDS = 16


@dataclass(frozen=True)
class Grid:
    """The weights of one stack of layers; those of one kind in one layer, such as experts, share a cell."""

    stack: str
    weights: tuple[WeightInspection, ...]

    @property
    def layers(self) -> list[int]:
        return sorted({weight.place.layer for weight in self.weights})

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(weight.place.kind for weight in self.weights))

    @property
    def labels(self) -> list[str]:
        """The kinds by as much of the end of their names as tells them apart."""
        return [_short(kind, self.kinds) for kind in self.kinds]

    def sparsity(self, layer: int | None = None, kind: str | None = None) -> float | None:
        """Return the sparsity of a cell, of a row, of a column, of all; None where there is nothing."""
        chosen = [
            weight
            for weight in self.weights
            if layer in (None, weight.place.layer) and kind in (None, weight.place.kind)
        ]
        size = sum(weight.size for weight in chosen)
        return sum(weight.zeros for weight in chosen) / size if size else None


def arrange(weights: Sequence[WeightInspection]) -> tuple[list[Grid], list[WeightInspection]]:
    """Sort weights into one grid for each stack of layers; return what is left as well."""
    stacks, rest = defaultdict(list), []
    for weight in weights:
        (rest if weight.place is None else stacks[weight.place.stack]).append(weight)
    grids = []
    for stack, held in stacks.items():
        grid = Grid(stack, tuple(held))
        if len(grid.kinds) <= _MOST_KINDS:
            grids.append(grid)
        else:
            rest += held
    return grids, rest


def _short(kind: str, kinds: Sequence[str]) -> str:
    parts = kind.split(".")
    for count in range(1, len(parts)):
        suffix = ".".join(parts[-count:])
        if not any(other != kind and f".{other}".endswith(f".{suffix}") for other in kinds):
            return suffix
    return kind
