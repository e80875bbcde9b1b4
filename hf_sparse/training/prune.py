"""Pruning in one shot, for training loops of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hf_sparse.recipe import Recipe
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.training.sparsifier import Sparsifier


def prune(
    model: nn.Module,
    sparsity: float,
    pattern: str = "unstructured",
    method: str = "magnitude",
    allocation: str = "uniform",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    floor: float = 0.01,
    overrides: Mapping[str, float | Mapping[str, Any]] | None = None,
) -> Masks:
    """Remove weights of a model at once, in place, and return the masks that keep them removed.

    The model's configuration records what was removed.

    `sparsity` is the share of zeros in [0, 1) among the weights of `find_targets(model, include, exclude)`;
    `overrides` maps regular expressions for their names to another one, or to what a recipe's overrides hold.
    In a training loop of your own, call `masks.apply_to_gradients()` before the optimizer's step and
    `masks.apply_to_weights()` after it. Zeros of a sparse model stay and count. Raises `ValueError` where a
    recipe with these settings would be refused.
    """
    if method in METHODS and METHODS[method].needs_training:
        raise ValueError(
            f"method {method} prepares in training what it removes; use it in the recipe of a SparseTrainer, "
            "or prune with method magnitude"
        )
    recipe = Recipe.from_dict(
        {
            "sparsity": {
                "method": method,
                "pattern": pattern,
                "schedule": {"shape": "one_shot", "final": sparsity, "begin": 0},
                "allocation": allocation,
                "include": include if isinstance(include, str) else tuple(include),
                "exclude": exclude if isinstance(exclude, str) else tuple(exclude),
                "floor": floor,
                "overrides": {
                    expression: dict(own) if isinstance(own, Mapping) else {"sparsity": own}
                    for expression, own in (overrides or {}).items()
                },
            }
        }
    )
    sparsifier = Sparsifier(recipe.sparsity, model, total_steps=1)
    sparsifier.update(0, optimizer=None)
    sparsifier.record(model)
    return sparsifier.masks
