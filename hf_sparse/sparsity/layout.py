"""Which blocks tile each weight of a model, and how many of them are removed at a sparsity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hf_sparse.expressions import Expression
from hf_sparse.sparsity.allocation import ALLOCATIONS, Budget
from hf_sparse.sparsity.patterns.block import Block, Tiled
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.targets import Targets


@dataclass(frozen=True)
class Override:
    """Another pattern, or another final sparsity, for the weights whose name matches an expression.

    None leaves a setting as it is.
    """

    expression: str
    pattern: Pattern | None = None
    sparsity: float | None = None


class Layout:
    """Patterns and allocation laid over the targets of a model.

    If several overrides fit a weight, the first one counts. Weights with a sparsity of their own are left out
    of the allocation among the others. `least` is the share of its blocks that every weight keeps under an
    allocation that ranks weights together. Raises `ValueError` if a pattern does not fit a weight, or an
    expression is malformed or matches no target.
    """

    def __init__(
        self,
        targets: Targets,
        pattern: Pattern,
        allocation: str = "uniform",
        least: float = 0.0,
        overrides: Sequence[Override] = (),
    ) -> None:
        self.allocation, self.least = allocation, least
        chosen = _chosen(targets, overrides)
        patterns = {name: override.pattern or pattern for name, override in chosen.items()}
        self.patterns = {name: str(laid) for name, laid in patterns.items()}
        self.weights = {
            name: Tiled(shape, patterns[name].fit(name, shape)) for name, shape in targets.shapes.items()
        }
        self.finals: dict[str, float | None] = {
            name: patterns[name].share
            if override.sparsity is None and override.pattern
            else override.sparsity
            for name, override in chosen.items()
        }

    @property
    def blocks(self) -> Mapping[str, Block]:
        return {name: weight.block for name, weight in self.weights.items()}

    def budgets(self, sparsity: Callable[[float | None], float]) -> list[Budget]:
        """Return how many blocks are removed now.

        `sparsity` maps the final sparsity of a weight, None for that of the recipe, to its sparsity now.
        Raises `ValueError` if the allocation cannot reach it.
        """
        shared = {name: weight for name, weight in self.weights.items() if self.finals[name] is None}
        budgets = ALLOCATIONS[self.allocation](shared, sparsity(None), self.least) if shared else []
        for name, final in self.finals.items():
            if final is not None:
                budgets += ALLOCATIONS["uniform"]({name: self.weights[name]}, sparsity(final), self.least)
        return budgets


def _chosen(targets: Targets, overrides: Sequence[Override]) -> dict[str, Override]:
    """Return by target the first override that fits it, or an empty one."""
    expressions = [Expression(override.expression, "overrides") for override in overrides]
    for override, expression in zip(overrides, expressions, strict=True):
        if not any(expression.search(name) for name in targets.names):
            raise ValueError(
                f"overrides: {override.expression!r} matches no target; they are named like "
                f"{targets.names[0]!r}"
            )
    pairs = list(zip(overrides, expressions, strict=True))
    return {
        name: next((override for override, expression in pairs if expression.search(name)), Override(""))
        for name in targets.names
    }
