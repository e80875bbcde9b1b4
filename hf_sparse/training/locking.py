"""Which zeros a run locks: those that the model's record names, as long as they are still there."""

import logging
import re
from collections.abc import Mapping

from torch import nn

from hf_sparse.checkpoint.contract import describe_lost, lost_zeros, read_contract, recorded_modules
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.targets import Targets, find_targets

logger = logging.getLogger(__name__)

# From this share of zeros on a model counts as sparse, whoever made them. Dense models have next to none, and
# rounding to 8 bits makes a few in a hundred.
SPARSE_FROM = 0.1

LOST = (
    "something wrote to them, such as merging an adapter; load the model as it was saved, or accept its "
    "weights as they are: del model.config.hf_sparse"
)


def is_sparse(model: nn.Module, targets: Targets) -> bool:
    """Say whether zeros among the targets of a model are to stay: there are many, or it has a record of them.

    A record counts as long as all that was removed is still zero.
    """
    if measure_sparsity(model, targets).overall >= SPARSE_FROM:
        return True
    contract = read_contract(model)
    if contract is None or not contract.achieved or lost_zeros(model):
        return False
    return not recorded_modules(model).isdisjoint(map(_module, targets.names))


def lock_standing(masks: Masks, blocks: Mapping[str, Block]) -> None:
    """Remove exactly the blocks that are zero now, and say so."""
    masks.lock_zeros(blocks)
    if masks.sparsity:
        logger.warning("The model is %.1f %% sparse already; these zeros stay.", 100 * masks.sparsity)


def settle(recipe: SparsityRecipe | None, model: nn.Module) -> SparsityRecipe | None:
    """Return what a run does about sparsity, given what its recipe says and what the model is.

    Where the recipe says nothing, the zeros of a sparse model are locked. A lock covers every weight that the
    model's record names. Raises `ValueError` if zeros that would be locked have been lost.
    """
    lost = lost_zeros(model)
    if lost and (recipe is None or recipe.method == "lock"):
        raise ValueError(f"{describe_lost(lost)}; {LOST}")
    if lost:
        logger.warning("%s; they are pruned anew.", describe_lost(lost))
    if recipe is None and (recipe := _default_lock(model)) is None:
        return None
    if recipe.method != "lock" or recipe.include or recipe.exclude:
        return recipe
    recorded = recorded_modules(model)
    default = set(map(_module, find_targets(model).names))
    if not recorded - default:
        return recipe
    expressions = tuple(f"^{re.escape(name)}$" for name in sorted(recorded))
    return recipe.model_copy(update={"include": expressions})


def _default_lock(model: nn.Module) -> SparsityRecipe | None:
    try:
        targets = find_targets(model)
    except ValueError:
        return None
    if not is_sparse(model, targets):
        return None
    logger.warning(
        "The model is %.1f %% sparse and the recipe says nothing about it: its zeros are locked, as by "
        "method lock.",
        100 * measure_sparsity(model, targets).overall,
    )
    return SparsityRecipe(method="lock")


def _module(name: str) -> str:
    """Return the module of a weight, or the 3-D parameter that it is a part of."""
    return name.removesuffix(".weight").partition("[")[0]
