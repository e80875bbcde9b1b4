"""The sparsity of one model during one training run."""

import logging

import torch
from torch import nn

from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.allocation import ALLOCATIONS
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.patterns import UNSTRUCTURED, Block, parse_pattern
from hf_sparse.sparsity.update import grow
from hf_sparse.targets import Targets, find_targets
from hf_sparse.training.state import SavedState

logger = logging.getLogger(__name__)

# From this share of zeros on a model counts as sparse. Dense models have next to none, and rounding to 8 bits
# makes a few in a hundred.
SPARSE_FROM = 0.1

# Optimizers whose update is exactly zero for a zero weight with zero gradient and zero state.
_KEEPS_ZEROS = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def check_targets(recipe: SparsityRecipe, model: nn.Module) -> Targets:
    """Find what a recipe prunes; raise `ValueError` if it is nothing or the pattern does not fit."""
    targets = find_targets(model, recipe.include, recipe.exclude)
    for name, shape in targets.shapes.items():
        parse_pattern(recipe.pattern).check(name, shape)
    return targets


class Sparsifier:
    """Grows the masks of a model on schedule and keeps its removed weights at zero."""

    def __init__(
        self, recipe: SparsityRecipe, model: nn.Module, total_steps: int, saved: SavedState | None = None
    ) -> None:
        self.recipe = recipe
        self.pattern: Block = parse_pattern(recipe.pattern)
        self.score = METHODS[recipe.method].score
        self.schedule = recipe.schedule.resolve(total_steps) if self.score else None
        self.masks = Masks(check_targets(recipe, model))
        if saved is not None:
            self.masks.unpack(saved.masks)
            self._require_zeros(
                "the checkpoint's weights and masks belong to different steps; resume from another one"
            )
        else:
            self._start_from_zeros(model)
        self._check_reachable()

    def reached(self, step: int) -> bool:
        """Say whether the final sparsity holds after `step` optimizer steps."""
        return self.schedule is None or self.schedule.is_final(step)

    def update(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Recompute and apply the masks, if the schedule says so after `step` optimizer steps."""
        if self.schedule is not None and self.schedule.is_update(step):
            self._grow(step, optimizer)

    def catch_up(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Reach the final sparsity at once where a changed schedule has its ramp behind the resumed step."""
        if self.schedule is not None and self.schedule.is_final(step):
            self._grow(step, optimizer)

    def _grow(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if grow(self.masks, self.schedule.sparsity(step), self.score, self.pattern, self.recipe.allocation):
            self.masks.apply_to_weights()
            if optimizer is not None:
                self.masks.apply_to_optimizer(optimizer)

    def after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put removed weights back to zero, where the optimizer may have moved them."""
        if type(getattr(optimizer, "optimizer", optimizer)) not in _KEEPS_ZEROS:
            self.masks.apply_to_weights()

    def verify(self, step: int) -> None:
        """Raise `RuntimeError` unless removed weights are zero and, after the ramp, as many as was asked."""
        self._require_zeros(
            "something wrote to the weights during training; remove that, or load the last checkpoint"
        )
        if self.schedule is None or not self.schedule.is_final(step):
            return
        for names, removed, asked in self._final_counts():
            if removed != asked:
                raise RuntimeError(
                    f"{removed} weights of {names} are removed, the recipe asks for {asked} at sparsity "
                    f"{self.schedule.final}; this is a fault in hf_sparse, please report it with the recipe"
                )

    def _start_from_zeros(self, model: nn.Module) -> None:
        present = measure_sparsity(model, self.masks.targets).overall
        if self.score is None and not present:
            raise ValueError(
                f"method {self.recipe.method} keeps the zeros of a sparse model, and the targets of this "
                f"{type(model).__name__} have none; load the pruned model, or choose another method"
            )
        if self.score is None or present >= SPARSE_FROM:
            self.masks.lock_zeros(UNSTRUCTURED if self.score is None else self.pattern)
            if self.masks.sparsity:
                logger.warning(
                    "The model is %.1f %% sparse already; these zeros stay.", 100 * self.masks.sparsity
                )

    def _check_reachable(self) -> None:
        """Refuse a final sparsity below what is removed already: pruning never gives weights back."""
        if self.schedule is None:
            return
        for names, removed, asked in self._final_counts():
            if removed > asked:
                raise ValueError(
                    f"{removed} weights of {names} are zero already, more than the {asked} that final "
                    "sparsity "
                    f"{self.schedule.final} removes; raise sparsity.schedule.final, or use method lock"
                )

    def _final_counts(self) -> list[tuple[str, int, int]]:
        """Return for every group ranked together its name, how many are removed, how many should be."""
        size = self.pattern.size
        blocks = {target.name: target.weight.numel() // size for target in self.masks.targets}
        return [
            (
                budget.names[0] if len(budget.names) == 1 else "all targets",
                sum(self.masks.removed(name) for name in budget.names),
                budget.removed * size,
            )
            for budget in ALLOCATIONS[self.recipe.allocation](blocks, self.schedule.final)
        ]

    def _require_zeros(self, way_out: str) -> None:
        if wrong := self.masks.nonzero_removed():
            name, count = next(iter(wrong.items()))
            raise RuntimeError(
                f"{count} removed weights of {name} are not zero ({len(wrong)} weights affected); {way_out}"
            )
