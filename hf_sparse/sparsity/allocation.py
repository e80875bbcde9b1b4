"""How much of the sparsity each weight bears."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor


@dataclass(frozen=True)
class Budget:
    """Weights that are ranked together, with the number of blocks removed among them."""

    names: tuple[str, ...]
    removed: int


def uniform(blocks: Mapping[str, int], sparsity: float) -> list[Budget]:
    """Give every weight the same share."""
    return [Budget((name,), floor(sparsity * count)) for name, count in blocks.items()]


def global_ranking(blocks: Mapping[str, int], sparsity: float) -> list[Budget]:
    """Rank the blocks of all weights together, whatever share of each is removed."""
    return [Budget(tuple(blocks), floor(sparsity * sum(blocks.values())))]


ALLOCATIONS: dict[str, Callable[[Mapping[str, int], float], list[Budget]]] = {
    "uniform": uniform,
    "global": global_ranking,
}
