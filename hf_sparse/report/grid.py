"""The sparsity of weights in rows of layers and columns of kinds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hf_sparse.report.colors import Scale
from hf_sparse.sparsity.inspection import Place, WeightInspection

# More kinds than this mean that the number in the names does not count equal layers.
_MOST_KINDS = 16
_ALL = "all"


@dataclass(frozen=True)
class Grid:
    """The weights of one stack of layers with their places; those of one kind in a layer share a cell."""

    stack: str
    weights: tuple[tuple[Place, WeightInspection], ...]

    @property
    def layers(self) -> list[int]:
        return sorted({place.layer for place, _ in self.weights})

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(place.kind for place, _ in self.weights))

    @property
    def labels(self) -> list[str]:
        """The kinds by the shortest ends of their names that are unique."""
        return [_short(kind, self.kinds) for kind in self.kinds]

    def sparsity(self, layer: int | None = None, kind: str | None = None) -> float | None:
        """Return the sparsity of a cell, of a row or a column (one argument), or of all; None if empty."""
        chosen = [
            weight
            for place, weight in self.weights
            if layer in (None, place.layer) and kind in (None, place.kind)
        ]
        size = sum(weight.size for weight in chosen)
        return sum(weight.zeros for weight in chosen) / size if size else None


def arrange(weights: Sequence[WeightInspection]) -> tuple[list[Grid], list[WeightInspection]]:
    """Return one grid for each stack of layers, and the weights that are in none."""
    stacks: dict[str, list[tuple[Place, WeightInspection]]] = defaultdict(list)
    rest: list[WeightInspection] = []
    for weight in weights:
        if (place := weight.place) is None:
            rest.append(weight)
        else:
            stacks[place.stack].append((place, weight))
    grids = []
    for stack, held in stacks.items():
        grid = Grid(stack, tuple(held))
        if len(grid.kinds) <= _MOST_KINDS:
            grids.append(grid)
        else:
            rest += [weight for _, weight in held]
    return grids, rest


@dataclass(frozen=True)
class Cell:
    """A share in percent, and its step on the scale of colors."""

    text: str
    step: int


@dataclass(frozen=True)
class HeatMap:
    """The sparsity of one stack of layers: the parts of each column's name, a row of cells for each layer.

    The last column and the last row are over all of the others; a cell is None where a layer lacks the kind.
    """

    stack: str
    headings: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    scale: Scale


def heat_maps(weights: Sequence[WeightInspection]) -> tuple[list[HeatMap], list[tuple[str, str]]]:
    """Return a table for each stack of layers, and name and sparsity of every weight outside the stacks.

    Both are empty for a dense model.
    """
    if not any(weight.zeros for weight in weights):
        return [], []
    grids, rest = arrange(weights)
    scale = Scale.over([weight.sparsity for weight in weights])
    maps = [_map(grid, scale) for grid in grids]
    return maps, [(weight.name, f"{100 * weight.sparsity:.1f} %") for weight in rest]


def _map(grid: Grid, scale: Scale) -> HeatMap:
    layers, kinds = [*grid.layers, None], [*grid.kinds, None]
    rows = [
        (
            _ALL if layer is None else f"{layer}",
            tuple(_cell(grid.sparsity(layer, kind), scale) for kind in kinds),
        )
        for layer in layers
    ]
    headings = [*(tuple(label.split(".")) for label in grid.labels), (_ALL,)]
    return HeatMap(grid.stack, tuple(headings), tuple(rows), scale)


def _cell(share: float | None, scale: Scale) -> Cell | None:
    return None if share is None else Cell(f"{100 * share:.1f}", scale.step(share))


def _short(kind: str, kinds: Sequence[str]) -> str:
    parts = kind.split(".")
    for count in range(1, len(parts)):
        suffix = ".".join(parts[-count:])
        if not any(other != kind and f".{other}".endswith(f".{suffix}") for other in kinds):
            return suffix
    return kind
