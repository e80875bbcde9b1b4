"""Which zeros a run locks: those that the model's record names, as long as they are still there."""

import logging
import re
from collections.abc import Mapping

from torch import nn

from hf_sparse.checkpoint.contract import (
    describe_lost,
    is_declared_dense,
    lost_zeros,
    read_contract,
    recorded_modules,
    recorded_out_of_reach,
)
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.evidence import IN_PATTERN, pruned_weights
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.targets import Targets, find_targets, module_of

logger = logging.getLogger(__name__)

_OTHERWISE = "to let them train, set model.config.hf_sparse = False before"


def explain_lost(lost: Mapping[str, tuple[int, int | None]]) -> str:
    """Say in words which zeros were lost, why that may be, and what to do."""
    if all(zeros is None for _, zeros in lost.values()):
        way_out = "prune the model anew, or remove the record"
    else:
        way_out = (
            "something wrote to them, such as merging an adapter, or the model was made with the config "
            "object of a pruned one; load it as it was saved, give it a configuration of its own, or accept "
            "its weights as they are"
        )
    return f"{describe_lost(lost)}; {way_out}: del model.config.hf_sparse"


def standing(model: nn.Module, targets: Targets) -> tuple[str, ...]:
    """Return the names of the targets whose zeros are to stay, in their order.

    Those that a record names, as long as all that was removed is still zero. Without a record, those that
    show to have been pruned.
    """
    if is_declared_dense(model):
        return ()
    if _is_recorded(model):
        recorded = recorded_modules(model)
        return tuple(name for name in targets.names if module_of(name) in recorded)
    return pruned_weights(targets)


def is_sparse(model: nn.Module, targets: Targets) -> bool:
    """Say whether zeros among the targets of a model are to stay."""
    return bool(standing(model, targets))


def lock_standing(masks: Masks, blocks: Mapping[str, Block]) -> None:
    """Remove exactly the blocks that are zero now, of the weights that `blocks` names, and say so."""
    masks.lock_zeros(blocks)
    if masks.sparsity:
        logger.warning(
            "The model is %.1f %% sparse already; these zeros stay (%s).", 100 * masks.sparsity, _OTHERWISE
        )


def settle(recipe: SparsityRecipe | None, model: nn.Module) -> SparsityRecipe | None:
    """Return what a run does about sparsity, given what its recipe says and what the model is.

    Where the recipe says nothing, the zeros of a sparse model are locked. A lock covers every weight that the
    model's record names. Raises `ValueError` if zeros that would be locked have been lost.
    """
    lost = lost_zeros(model)
    if lost and (recipe is None or recipe.method == "lock"):
        raise ValueError(explain_lost(lost))
    if lost:
        logger.warning("%s; they are pruned anew.", describe_lost(lost))
    if away := recorded_out_of_reach(model):
        logger.warning(
            "The zeros of %d weights that the configuration records are not kept, which are out of reach: "
            "%s %s.",
            len(away),
            away[0].name,
            away[0].reason,
        )
    if recipe is None:
        return _default_lock(model)
    if recipe.method != "lock" or recipe.include or recipe.exclude:
        return recipe
    recorded = recorded_modules(model)
    default = set(map(module_of, find_targets(model).names))
    return recipe.model_copy(update={"include": _exactly(recorded)}) if recorded - default else recipe


def _default_lock(model: nn.Module) -> SparsityRecipe | None:
    try:
        targets = find_targets(model)
    except ValueError:
        return None
    names = standing(model, targets)
    share = measure_sparsity(model, targets).overall
    if not names:
        if share >= IN_PATTERN:
            logger.warning(
                "%.1f %% of the weights are zero, which without a record and a pattern is taken for chance: "
                "they train like all others; to keep them, take a recipe with sparsity.method=lock.",
                100 * share,
            )
        return None
    recorded = _is_recorded(model)
    logger.warning(
        "The model is %.1f %% sparse and the recipe says nothing about it: its zeros are locked, as by "
        "method lock. %s; %s.",
        100 * share,
        "Its configuration records them" if recorded else "No record names them, their number and places do",
        _OTHERWISE,
    )
    locked = recorded_modules(model) if recorded else set(map(module_of, names))
    usual = set(map(module_of, targets.names)) == locked and not any(e.obstacle for e in targets.left_out)
    return SparsityRecipe(method="lock", include=() if usual else _exactly(locked))


def _is_recorded(model: nn.Module) -> bool:
    contract = read_contract(model)
    return contract is not None and contract.achieved > 0 and not lost_zeros(model)


def _exactly(modules: set[str]) -> tuple[str, ...]:
    return tuple(f"^{re.escape(name)}$" for name in sorted(modules))
