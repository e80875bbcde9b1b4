"""How many blocks each weight loses at an overall sparsity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

from hf_sparse.sparsity.patterns.block import Tiled


@dataclass(frozen=True)
class Budget:
    """Weights that are ranked together, and how many blocks are removed among them.

    `most` is how many blocks each weight may lose.
    """

    names: tuple[str, ...]
    removed: int
    most: tuple[int, ...]


def split_by_bounds(budget: Budget, lost: Sequence[int]) -> list[Budget]:
    """Return budgets of their own for weights that lost too much; the other weights lose the difference.

    `lost` is how many blocks each weight loses if the budget is ranked as one; the budget is returned alone
    if none lost too much.
    """
    over = [index for index, (count, most) in enumerate(zip(lost, budget.most, strict=True)) if count > most]
    if not over:
        return [budget]
    bounded = [Budget((budget.names[i],), budget.most[i], (budget.most[i],)) for i in over]
    rest = [index for index in range(len(lost)) if index not in over]
    left = budget.removed - sum(part.removed for part in bounded)
    names, most = tuple(budget.names[i] for i in rest), tuple(budget.most[i] for i in rest)
    return [*bounded, Budget(names, left, most)]


def uniform(weights: Mapping[str, Tiled], sparsity: float, least: float) -> list[Budget]:
    """Give every weight the same share."""
    return [Budget((name,), weight.removed(sparsity), (weight.blocks,)) for name, weight in weights.items()]


def global_ranking(weights: Mapping[str, Tiled], sparsity: float, least: float) -> list[Budget]:
    """Rank the blocks of all weights together, whatever share of each is removed."""
    sizes = sorted({weight.block.size for weight in weights.values()})
    if len(sizes) > 1:
        raise ValueError(
            f"global allocation compares blocks of one size, and these have {', '.join(map(str, sizes))} "
            "weights; choose allocation uniform or erk, or blocks of a fixed size"
        )
    removed = floor(sparsity * sum(weight.blocks for weight in weights.values()))
    most = _most(weights, least)
    _check_floor(removed, most, least)
    return [Budget(tuple(weights), removed, most)]


def erdos_renyi_kernel(weights: Mapping[str, Tiled], sparsity: float, least: float) -> list[Budget]:
    """Keep more of small weights: densities proportional to (out + in) / (out * in).

    Erdos-Renyi-kernel of Evci et al. 2020 (arXiv:1911.11134, section 3); each weight rounds down to
    whole blocks.
    """
    sizes = {name: weight.shape[0] * weight.shape[1] for name, weight in weights.items()}
    if sparsity > 1 - least:
        raise ValueError(
            f"floor {least} keeps more of every weight than sparsity {sparsity} leaves; lower "
            "sparsity.floor or the final sparsity"
        )
    raw = {name: sum(weight.shape) / sizes[name] for name, weight in weights.items()}
    wanted = (1 - sparsity) * sum(sizes.values())

    def densities(scale: float) -> dict[str, float]:
        return {name: min(max(scale * share, least), 1.0) for name, share in raw.items()}

    # The number kept rises with the scale; bisection, since clamping makes it piecewise linear.
    low, high = 0.0, 1 / min(raw.values())
    for _ in range(100):
        middle = (low + high) / 2
        kept = sum(sizes[name] * density for name, density in densities(middle).items())
        low, high = (middle, high) if kept < wanted else (low, middle)
    # Rounding of the bisection must not cost a block of a share such as 0.5 of 64.
    removed = {
        name: floor((1 - density) * weights[name].blocks + 1e-6) for name, density in densities(high).items()
    }
    most = dict(zip(weights, _most(weights, least), strict=True))
    return [Budget((name,), min(removed[name], most[name]), (most[name],)) for name in weights]


def _most(weights: Mapping[str, Tiled], least: float) -> tuple[int, ...]:
    return tuple(weight.blocks - ceil(least * weight.blocks) for weight in weights.values())


def _check_floor(removed: int, most: tuple[int, ...], least: float) -> None:
    if removed > sum(most):
        raise ValueError(
            f"{removed} blocks are to be removed, and floor {least} leaves {sum(most)} of them removable; "
            "lower sparsity.floor or the final sparsity"
        )


ALLOCATIONS: dict[str, Callable[[Mapping[str, Tiled], float, float], list[Budget]]] = {
    "uniform": uniform,
    "global": global_ranking,
    "erk": erdos_renyi_kernel,
}
