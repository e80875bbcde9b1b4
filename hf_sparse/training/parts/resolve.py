"""A recipe applied to one model: which weights it prunes, in which pattern, which zeros stay."""

import logging
import re
from collections.abc import Mapping

from torch import nn

from hf_sparse.checkpoint.sparsity_record import (
    describe_lost,
    is_declared_dense,
    lost_zeros,
    read_sparsity_record,
    recorded_modules,
    recorded_out_of_reach,
)
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.savable import require_lasting, require_own_weights
from hf_sparse.sparsity.evidence import IN_PATTERN, pruned_weights
from hf_sparse.sparsity.layout import Layout, Override
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.methods.method import LearnedScores
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.targets import Targets, find_targets, module_of

logger = logging.getLogger(__name__)

_OTHERWISE = "to let them train, set model.config.hf_sparse = False before"


def settle(recipe: SparsityRecipe | None, model: nn.Module) -> SparsityRecipe | None:
    """Return the sparsity recipe that a run follows: the given one, or a lock of the zeros of a sparse model.

    A lock covers every weight that the model's sparsity record names. Raises `ValueError` if zeros that would
    be locked have been lost.
    """
    lost = lost_zeros(model)
    if lost and (recipe is None or recipe.method == "lock"):
        raise ValueError(explain_lost(lost))
    if lost:
        logger.warning("%s; they are pruned again.", describe_lost(lost))
    if away := recorded_out_of_reach(model):
        logger.warning(
            "The zeros of %d recorded weights are not kept, since these weights are out of reach: %s %s.",
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


def chosen_targets(recipe: SparsityRecipe, model: nn.Module) -> Targets:
    """Return the weights that a recipe prunes.

    Raises `ValueError` if it finds none, if their zeros would be lost when the model is saved, or if the
    method needs gradients of frozen weights.
    """
    targets, method = find_targets(model, recipe.include, recipe.exclude), METHODS[recipe.method]
    if method.scheduled:
        require_lasting(model, targets, "sparsity")
    else:
        require_own_weights(targets, "sparsity")
    # Checked last: where an adapter froze the weights, the errors above give better advice.
    frozen = [target.name for target in targets if not target.parameter.requires_grad]
    if frozen and method.needs_training:
        raise ValueError(
            f"method {recipe.method} prepares by gradients what it removes, and {len(frozen)} targets are "
            f"frozen, such as {frozen[0]}; train them, or leave them out with sparsity.exclude"
        )
    return targets


def check_targets(recipe: SparsityRecipe, model: nn.Module) -> Targets:
    """Return the weights that a recipe prunes; raise `ValueError` also if its pattern does not fit them."""
    targets = chosen_targets(recipe, model)
    lay_out(recipe, targets)
    frozen = [target.name for target in targets if not target.weight.requires_grad]
    if frozen and METHODS[recipe.method].scheduled:
        logger.warning(
            "%d of %d weights to prune are frozen, such as %s: their remaining entries cannot make up "
            "for the loss; leave them out by exclude, or let them train.",
            len(frozen),
            len(targets),
            frozen[0],
        )
    return targets


def lay_out(recipe: SparsityRecipe, targets: Targets) -> Layout:
    """Return the blocks of a recipe over the targets of a model; raise `ValueError` if they do not fit."""
    overrides = [
        Override(expression, None if part.pattern is None else parse_pattern(part.pattern), part.sparsity)
        for expression, part in recipe.overrides.items()
    ]
    layout = Layout(targets, parse_pattern(recipe.pattern), recipe.allocation, recipe.floor, overrides)
    if recipe.schedule is not None:
        target = recipe.schedule.final
        layout.budgets(lambda final: target if final is None else final)
    return layout


def check_start(recipe: SparsityRecipe, schedule: Schedule | None) -> None:
    """Raise `ValueError` if weights would be removed before training has prepared scores or groups."""
    if schedule is None or not METHODS[recipe.method].needs_training:
        return
    if schedule.is_update(0) and schedule.sparsity(0):
        raise ValueError(
            f"method {recipe.method} prepares in training what it removes, and the schedule removes "
            f"{schedule.sparsity(0):.1%} before the first step; let it begin later, from initial: 0"
        )


def make_scores(recipe: SparsityRecipe, model: nn.Module) -> LearnedScores | None:
    """Return new scores for the weights that a recipe prunes, None if its method learns none."""
    method = METHODS[recipe.method]
    if method.learn is None:
        return None
    targets = chosen_targets(recipe, model)
    return method.learn(targets, lay_out(recipe, targets).blocks, recipe.own_settings)


def standing(model: nn.Module, targets: Targets) -> tuple[str, ...]:
    """Return the names of the targets whose zeros must stay, in their order.

    These are the targets that the model's sparsity record names, if every removed weight is still zero;
    without a record, the targets whose zeros show a pruning pattern.
    """
    if is_declared_dense(model):
        return ()
    if _is_recorded(model):
        recorded = recorded_modules(model)
        return tuple(name for name in targets.names if module_of(name) in recorded)
    return pruned_weights(targets)


def is_sparse(model: nn.Module, targets: Targets) -> bool:
    """Return whether any target of a model has zeros that must stay."""
    return bool(standing(model, targets))


def lock_standing(masks: Masks, blocks: Mapping[str, Block]) -> None:
    """Mark as removed exactly the blocks that are zero now in the weights that `blocks` names; log it."""
    masks.lock_zeros(blocks)
    if masks.sparsity:
        logger.warning(
            "The model is %.1f %% sparse already; these zeros stay (%s).", 100 * masks.sparsity, _OTHERWISE
        )


def explain_lost(lost: Mapping[str, tuple[int, int | None]]) -> str:
    """Return a message that names the lost zeros, the likely cause and the way out."""
    if all(zeros is None for _, zeros in lost.values()):
        way_out = "prune the model again, or remove the record"
    else:
        way_out = (
            "something wrote to them, such as merging an adapter, or the model was made with the config "
            "object of a pruned one; load it as it was saved, give it a configuration of its own, or accept "
            "its weights as they are"
        )
    return f"{describe_lost(lost)}; {way_out}: del model.config.hf_sparse"


def _default_lock(model: nn.Module) -> SparsityRecipe | None:
    """Return a lock of the zeros of a sparse model; None for a dense one."""
    try:
        targets = find_targets(model)
    except ValueError:
        return None
    names = standing(model, targets)
    share = measure_sparsity(model, targets).overall
    if not names:
        if share >= IN_PATTERN:
            logger.warning(
                "%.1f %% of the weights are zero, which counts as chance without a record or a pattern: "
                "they train like all others; to keep them, take a recipe with sparsity.method=lock.",
                100 * share,
            )
        return None
    recorded = _is_recorded(model)
    logger.warning(
        "The model is %.1f %% sparse and the recipe says nothing about it: its zeros are locked, as by "
        "method lock. %s; %s.",
        100 * share,
        "Its configuration records them"
        if recorded
        else "Their number and places show that they were pruned",
        _OTHERWISE,
    )
    locked = recorded_modules(model) if recorded else set(map(module_of, names))
    usual = set(map(module_of, targets.names)) == locked and not any(e.obstacle for e in targets.left_out)
    return SparsityRecipe(method="lock", include=() if usual else _exactly(locked))


def _is_recorded(model: nn.Module) -> bool:
    record = read_sparsity_record(model)
    return record is not None and record.achieved > 0 and not lost_zeros(model)


def _exactly(modules: set[str]) -> tuple[str, ...]:
    """Return regular expressions that match these modules and no others."""
    return tuple(f"^{re.escape(name)}$" for name in sorted(modules))
