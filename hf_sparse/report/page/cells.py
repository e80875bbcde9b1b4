"""The zeros of a model's layers as cells of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from hf_sparse.report.colours import STEPS
from hf_sparse.report.grid import Grid, arrange
from hf_sparse.sparsity.inspection import WeightInspection

_ALL = "all"


@dataclass(frozen=True)
class Cell:
    """A share in per cent, and its step on the scale of colours."""

    text: str
    step: int


@dataclass(frozen=True)
class HeatMap:
    """The sparsity of one stack of layers: the parts of each column's name, a row of cells for each layer.

    The last column and the last row are over all of the others; None where a layer has no such weight. `low`
    and `high` are the shares at the ends of the scale.
    """

    stack: str
    headings: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    low: float
    high: float


def heat_maps(weights: Sequence[WeightInspection]) -> tuple[list[HeatMap], list[tuple[str, str]]]:
    """Return a table for each stack of layers, and name with sparsity of each weight that is in none.

    The colours are spread over the tenths that occur, since layers differ by less than all there could be.
    """
    if not any(weight.zeros for weight in weights):
        return [], []
    grids, rest = arrange(weights)
    shares = [weight.sparsity for weight in weights]
    low, high = floor(10 * min(shares)) / 10, ceil(10 * max(shares)) / 10
    low = max(min(low, high - 0.1), 0.0)
    maps = [_map(grid, low, max(high, low + 0.1)) for grid in grids]
    return maps, [(weight.name, f"{100 * weight.sparsity:.1f} %") for weight in rest]


def _map(grid: Grid, low: float, high: float) -> HeatMap:
    kinds: list[str | None] = [*grid.kinds, None]
    rows = [
        (
            _ALL if layer is None else f"{layer}",
            tuple(_cell(grid.sparsity(layer, kind), low, high) for kind in kinds),
        )
        for layer in [*grid.layers, None]
    ]
    headings = [*(tuple(label.split(".")) for label in grid.labels), (_ALL,)]
    return HeatMap(grid.stack, tuple(headings), tuple(rows), low, high)


def _cell(share: float | None, low: float, high: float) -> Cell | None:
    if share is None:
        return None
    place = min(max((share - low) / (high - low), 0.0), 1.0)
    return Cell(f"{100 * share:.1f}", round(STEPS * place))
