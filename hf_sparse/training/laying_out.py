"""What a recipe asks of one model, checked before the run: patterns over its targets, scores to learn."""

import logging

from torch import nn

from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.layout import Layout, Override
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.methods.method import LearnedScores
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.suitable import require_lasting, require_own_weights
from hf_sparse.targets import Targets, find_targets

logger = logging.getLogger(__name__)


def lay_out(recipe: SparsityRecipe, targets: Targets) -> Layout:
    """Lay the patterns of a recipe over the targets of a model; raise `ValueError` if they do not fit."""
    overrides = [
        Override(expression, parse_pattern(part.pattern) if part.pattern else None, part.sparsity)
        for expression, part in recipe.overrides.items()
    ]
    layout = Layout(targets, parse_pattern(recipe.pattern), recipe.allocation, recipe.floor, overrides)
    if (schedule := recipe.schedule) is not None:
        layout.budgets(lambda final: schedule.final if final is None else final)
    return layout


def chosen_targets(recipe: SparsityRecipe, model: nn.Module) -> Targets:
    """Find what a recipe prunes; raise `ValueError` if it is nothing, would not last, or cannot be learnt."""
    targets, method = find_targets(model, recipe.include, recipe.exclude), METHODS[recipe.method]
    if method.scheduled:
        require_lasting(model, targets, "sparsity")
    else:
        require_own_weights(targets, "sparsity")
    # After that: letting them train is no way out where an adapter froze them.
    frozen = [target.name for target in targets if not target.parameter.requires_grad]
    if frozen and method.needs_training:
        raise ValueError(
            f"method {recipe.method} prepares by gradients what it removes, and {len(frozen)} targets are "
            f"frozen, such as {frozen[0]}; train them, or leave them out with sparsity.exclude"
        )
    return targets


def check_targets(recipe: SparsityRecipe, model: nn.Module) -> Targets:
    """Find what a recipe prunes; raise `ValueError` also if the pattern does not fit."""
    targets = chosen_targets(recipe, model)
    lay_out(recipe, targets)
    frozen = [target.name for target in targets if not target.weight.requires_grad]
    if frozen and METHODS[recipe.method].scheduled:
        logger.warning(
            "%d of %d weights to prune are frozen, such as %s: what is left of them cannot make up for what "
            "they lose; leave them out by exclude, or let them train.",
            len(frozen),
            len(targets),
            frozen[0],
        )
    return targets


def check_start(recipe: SparsityRecipe, schedule: Schedule | None) -> None:
    """Refuse to remove anything by what training has not had a step to prepare."""
    method = METHODS[recipe.method]
    if schedule is not None and method.needs_training and schedule.is_update(0) and schedule.sparsity(0):
        raise ValueError(
            f"method {recipe.method} prepares in training what it removes, and the schedule removes "
            f"{schedule.sparsity(0):.1%} before the first step; let it begin later, from initial: 0"
        )


def make_scores(recipe: SparsityRecipe, model: nn.Module) -> LearnedScores | None:
    """Return new scores for what a recipe prunes in a model, None where its method learns none."""
    method = METHODS[recipe.method]
    if method.learn is None:
        return None
    targets = chosen_targets(recipe, model)
    return method.learn(targets, lay_out(recipe, targets).blocks, recipe.own_settings)
