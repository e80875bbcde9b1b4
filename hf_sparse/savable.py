"""Checks that changes to the weights of a model survive saving."""

import logging

from torch import nn

from hf_sparse.modules import has_adapter
from hf_sparse.targets import Obstacle, Targets

logger = logging.getLogger(__name__)


def require_lasting(model: nn.Module, targets: Targets, part: str) -> None:
    """Raise `ValueError` if pruned or rounded weights would be lost; warn of weights that are out of reach.

    `part` is the part of the recipe that the targets belong to: `sparsity` or `quantization`.
    """
    if has_adapter(model):
        what, first = _WORDS[part]
        raise ValueError(
            f"{type(model).__name__} carries an adapter, and of such a model the adapter alone is saved, so "
            f"{what} in its base would be lost; {first} the base first and put the adapter on that, or merge "
            f"the adapter (hf_sparse.merge_adapter) and {first} the whole model"
        )
    require_own_weights(targets, part)
    if away := [entry for entry in targets.left_out if entry.obstacle is Obstacle.OUT_OF_REACH]:
        logger.warning("%d Linears are left out of %s: %s %s.", len(away), part, away[0].name, away[0].reason)


def require_merged(model: nn.Module) -> None:
    """Raise `ValueError` for a model with an adapter, for uses that need everything in its own weights."""
    if has_adapter(model):
        raise ValueError(
            f"{type(model).__name__} carries an adapter beside its weights; merge it into them first "
            "(hf_sparse.merge_adapter)"
        )


def require_own_weights(targets: Targets, part: str) -> None:
    """Raise `ValueError` for weights that are made anew in every forward pass, or divided in other ways."""
    if remade := [entry for entry in targets.left_out if entry.obstacle is Obstacle.MADE_ANEW]:
        raise ValueError(
            f"the weight of {remade[0].name} ({len(remade)} in all) is {remade[0].reason}, so values "
            "written into it are lost at the next; make it an ordinary weight before "
            "(torch.nn.utils.prune.remove, remove_weight_norm, parametrize.remove_parametrizations), or "
            f"leave it out with {part}.exclude"
        )
    if divided := [entry for entry in targets.left_out if entry.obstacle is Obstacle.DIVIDED]:
        raise ValueError(
            f"the weight of {divided[0].name} ({len(divided)} in all) {divided[0].reason}, and only weights "
            "whose rows FSDP2 divides (Shard(dim=0), beside Replicate) can be changed; switch tensor "
            f"parallelism off, or leave them out with {part}.exclude"
        )


# What each part of a recipe leaves in the weights, and the verb for it.
_WORDS = {"sparsity": ("zeros", "prune"), "quantization": ("rounding", "quantize")}
