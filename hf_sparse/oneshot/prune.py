"""One-shot pruning by the weights alone, without data or training."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hf_sparse.recipe.recipe import Recipe
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.training.parts.sparsifier import Sparsifier


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
    """Prune a model in place at once, and return the masks that keep the removed weights at zero.

    Zeros of a sparse model stay and count. The model's configuration records what was removed. In a training
    loop of your own, call `masks.apply_to_gradients()` before the optimizer's step and
    `masks.apply_to_weights()` after it.

    Args:
        model: The model to prune.
        sparsity: Share of zeros among all targets, in [0, 1).
        pattern: Pattern of the zeros as in a recipe, such as `unstructured`, `2:4` or `4x4`.
        method: Name of a pruning method that needs no training, such as `magnitude`.
        allocation: How the sparsity is distributed over the targets, such as `uniform` or `global`.
        include: Names or regular expressions of the Linears to prune instead of the default ones, as in
            `find_targets`.
        exclude: Names or regular expressions of Linears to leave dense.
        floor: Smallest share of weights that every target keeps, where the allocation has one.
        overrides: Maps regular expressions for names to another sparsity, or to the settings that a recipe's
            `overrides` hold.

    Returns:
        The masks of the targets.

    Raises:
        ValueError: If a recipe with these settings would be refused.
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
    if recipe.sparsity is None:
        raise ValueError("there is nothing to prune; give a sparsity")
    sparsifier = Sparsifier(recipe.sparsity, model, total_steps=1)
    sparsifier.update(0, optimizer=None)
    sparsifier.record(model)
    return sparsifier.masks
