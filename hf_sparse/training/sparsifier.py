"""The sparsity of one model during one training run."""

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from hf_sparse.checkpoint.contract import write_contract
from hf_sparse.settings.sparsity import SparsityRecipe
from hf_sparse.sparsity.allocation import Budget
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.movement import MovementScores
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.sparsity.remembered import RememberedWeights
from hf_sparse.sparsity.update import Scores, choose, grow
from hf_sparse.training.regularizer import Regularizer, make_regularizer
from hf_sparse.training.resolve import check_start, chosen_targets, lay_out, lock_standing, standing
from hf_sparse.training.state import SavedState

logger = logging.getLogger(__name__)

# From this difference on, between a sparsity and the nearest one that whole blocks make, people are told.
ROUNDING = 0.02

# The parts of the sidecar that hold learned scores and the state of a penalty.
_SCORES, _PENALTY = "movement_scores", "penalty"

# Optimizers whose update is exactly zero for a zero weight with zero gradient and zero state.
_KEEPS_ZEROS = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


class Sparsifier:
    """Grows the masks of a model on schedule and keeps its removed weights at zero."""

    def __init__(
        self,
        recipe: SparsityRecipe,
        model: nn.Module,
        total_steps: int,
        saved: SavedState | None = None,
        scores: MovementScores | None = None,
    ) -> None:
        self.recipe, self.method = recipe, METHODS[recipe.method]
        self.schedule = recipe.schedule.resolve(total_steps) if self.method.scheduled else None
        check_start(recipe, self.schedule)
        self.masks = Masks(chosen_targets(recipe, model))
        self.layout = lay_out(recipe, self.masks.targets)
        self.scores = scores
        if self.method.learned and scores is None:
            self.scores = MovementScores(self.masks.targets, self.layout.blocks)
        self.remembered: RememberedWeights | None = RememberedWeights(self.masks) if recipe.revives else None
        self.regularizer: Regularizer | None = None
        if self.method.penalized:
            self.regularizer = make_regularizer(
                recipe, self.masks.targets, self.layout, self.schedule, self.scores
            )
        if saved is not None:
            self.masks.unpack(saved.masks)
            self._require_zeros(
                "the checkpoint's weights and masks belong to different steps; resume from another one"
            )
            self._take_up(saved)
        else:
            self._start_from_zeros(model)
        self._check_reachable()
        self._warn_of_rounding()

    def reached(self, step: int) -> bool:
        """Say whether the final sparsity holds after `step` optimizer steps."""
        return self.schedule is None or self.schedule.is_final(step)

    def regularize(self, step: int, scale: float = 1.0) -> float:
        """Add the gradient of the method's penalty, if it has one, to those of step `step` + 1; return it.

        Gradients of the weights are not masked yet: learned scores take theirs from them. `scale` is what the
        loss was multiplied by before its gradients were taken.
        """
        if self.scores is not None:
            if self.remembered is None:
                self.scores.forget_gradients()
            else:
                self.scores.set_gradients(self.remembered.whole)
        return 0.0 if self.regularizer is None else self.regularizer.add_gradients(step, scale)

    def update(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Recompute and apply the masks, if the schedule says so after `step` optimizer steps."""
        if self.regularizer is not None:
            self.regularizer.update(step)
        if self.schedule is not None and self.schedule.is_update(step):
            self._update(step, optimizer)

    def catch_up(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Reach the final sparsity at once where a changed schedule has its ramp behind the resumed step."""
        if self.schedule is None or not self.schedule.is_final(step):
            return
        if self.remembered is None:
            self._grow(step, optimizer)
            if self.recipe.revives:
                # The checkpoint may hold moments of values that were remembered when it was written.
                self.masks.apply_to_optimizer(optimizer)
            return
        self.remembered.restore()
        grow(self.masks, self.budgets(step), self._ranked(), self.layout.blocks)
        self.remembered.withdraw()

    def _update(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if self.scores is not None and self.schedule.sparsity(step):
            self.scores.check_moved()
        if self.remembered is None:
            self._grow(step, optimizer)
            return
        self.remembered.restore()
        choose(self.masks, self.budgets(step), self._ranked(), self.layout.blocks)
        self.remembered.withdraw()
        if self.schedule.is_last_update(step):
            # Nothing can return any more.
            self.remembered = None
            if optimizer is not None:
                self.masks.apply_to_optimizer(optimizer)

    def _grow(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if grow(self.masks, self.budgets(step), self._ranked(), self.layout.blocks):
            self.masks.apply_to_weights()
            if optimizer is not None:
                self.masks.apply_to_optimizer(optimizer)

    def _ranked(self) -> Scores:
        return self.method.score if self.scores is None else self.scores.ranked()

    def budgets(self, step: int) -> list[Budget]:
        """Return what the recipe asks to be removed after `step` optimizer steps.

        On the ramp of soft movement these are the blocks whose score is below a rising threshold.
        """
        if not (self.method.learned and self.method.penalized) or self.schedule.is_final(step):
            return self.layout.budgets(lambda final: self.schedule.towards(final).sparsity(step))
        risen = self.schedule.sparsity(step) / self.schedule.final if self.schedule.final else 0.0
        lowest = self.regularizer.penalty.below(risen)
        budgets = self.layout.budgets(lambda final: self.schedule.final if final is None else final)
        return [
            replace(budget, removed=min(budget.removed, sum(lowest[name] for name in budget.names)))
            for budget in budgets
        ]

    def switch(self, optimizer: torch.optim.Optimizer | None, mode: str) -> None:
        """Bring an optimizer into the mode `train` or `eval`, if it has modes; removed weights stay zero."""
        if self.remembered is not None and optimizer is not None:
            self.remembered.switch(optimizer, mode)

    def before_optimizer_step(self) -> None:
        """Give the optimizer the remembered values to move, where removed weights may return."""
        if self.remembered is not None:
            self.remembered.restore()

    def shrink(self, step: int) -> None:
        """Shorten groups after the optimizer's step `step` + 1, where the method's penalty does that."""
        if self.regularizer is not None:
            self.regularizer.after_step(step)

    def after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put removed weights back to zero, where the optimizer may have moved them."""
        if self.remembered is not None:
            self.remembered.withdraw()
        elif type(getattr(optimizer, "optimizer", optimizer)) not in _KEEPS_ZEROS:
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
        if not self.method.scheduled and not present:
            raise ValueError(
                f"method {self.recipe.method} keeps the zeros of a sparse model, and the targets of this "
                f"{type(model).__name__} have none; load the pruned model, or choose another method"
            )
        kept = standing(model, self.masks.targets) if self.method.scheduled else ()
        if self.method.learned and kept:
            raise ValueError(
                f"method {self.recipe.method} learns what to remove from a dense model, and this one is "
                f"{present:.1%} sparse already; use method magnitude or lock"
            )
        if not self.method.scheduled:
            lock_standing(self.masks, dict.fromkeys(self.layout.blocks, UNSTRUCTURED))
        elif kept:
            lock_standing(self.masks, {name: self.layout.blocks[name] for name in kept})

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
        budgets = self.layout.budgets(lambda final: self.schedule.final if final is None else final)
        return [
            (
                budget.names[0] if len(budget.names) == 1 else f"{len(budget.names)} targets",
                sum(self.masks.removed(name) for name in budget.names),
                budget.removed * self.layout.blocks[budget.names[0]].size,
            )
            for budget in budgets
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Return what a checkpoint has to hold of this object: packed masks, and other tensors by part."""
        extras = {} if self.remembered is None else {"remembered": self.remembered.pack()}
        if self.scores is not None:
            extras[_SCORES] = self.scores.state()
        if self.regularizer is not None:
            extras[_PENALTY] = self.regularizer.penalty.state()
        return self.masks.pack(), extras

    def record(self, model: nn.Module) -> None:
        """Write what is removed into the configuration of the model."""
        if self.schedule is None:
            unknown = dict.fromkeys(self.masks.targets.names, (str(UNSTRUCTURED), None))
            write_contract(model, self.masks, None, None, unknown)
            return
        final, uniform = self.schedule.final, self.recipe.allocation == "uniform"
        layers = {
            name: (self.layout.patterns[name], own if own is not None or not uniform else final)
            for name, own in self.layout.finals.items()
        }
        write_contract(model, self.masks, self.recipe.pattern, final, layers)

    def _take_up(self, saved: SavedState) -> None:
        """Go on as the checkpoint did; nothing is remembered any more if no update was left."""
        if self.scores is not None:
            self.scores.load_state(saved.extras.get(_SCORES, {}))
        if self.regularizer is not None:
            self.regularizer.load_state(saved.extras.get(_PENALTY, {}), saved.step)
        if self.remembered is None:
            return
        if self.schedule.is_update_left(saved.step):
            # Without any in the checkpoint, updates were over by then, and every value was forgotten: zero.
            if "remembered" in saved.extras:
                self.remembered.unpack(saved.extras["remembered"])
        else:
            self.remembered = None

    def _warn_of_rounding(self) -> None:
        """Say so where whole blocks cannot come near the sparsity asked for."""
        if self.schedule is None:
            return
        far = {
            name: weight.removed(final) / weight.blocks
            for name, weight in self.layout.weights.items()
            if self.recipe.allocation == "uniform"
            for own in [self.layout.finals[name]]
            for final in [self.schedule.final if own is None else own]
            if final - weight.removed(final) / weight.blocks > ROUNDING
        }
        if far:
            name, share = next(iter(far.items()))
            logger.warning(
                "Whole blocks leave %d weights more than %.0f %% short of the sparsity asked for, such as %s "
                "at %.1f %%; a smaller pattern comes nearer.",
                len(far),
                100 * ROUNDING,
                name,
                100 * share,
            )

    def _require_zeros(self, way_out: str) -> None:
        if wrong := self.masks.nonzero_removed():
            name, count = next(iter(wrong.items()))
            raise RuntimeError(
                f"{count} removed weights of {name} are not zero ({len(wrong)} weights affected); {way_out}"
            )
