"""Grows the masks of a model on schedule during one training run, and keeps removed weights at zero."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.checkpoint.sparsity_record import write_sparsity_record
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.allocation import Budget
from hf_sparse.sparsity.mask_update import choose, grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.methods.method import LearnedScores, MethodRun, PruningRun
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.training.parts.resolve import check_start, chosen_targets, lay_out, lock_standing, standing

logger = logging.getLogger(__name__)

# A larger difference between a sparsity and the nearest one that whole blocks make is warned about.
ROUNDING = 0.02

# The section of the sidecar that holds the values of removed weights.
_REMEMBERED = "remembered"

# Optimizers whose update is exactly zero for a zero weight with zero gradient and zero state.
KEEPS_ZEROS = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


class Sparsifier:
    """Grows the masks of a model on schedule and keeps its removed weights at zero."""

    def __init__(
        self,
        recipe: SparsityRecipe,
        model: nn.Module,
        total_steps: int,
        saved: SavedState | None = None,
        scores: LearnedScores | None = None,
    ) -> None:
        self.recipe, self.method = recipe, METHODS[recipe.method]
        self.schedule = None if recipe.schedule is None else recipe.schedule.resolve(total_steps)
        check_start(recipe, self.schedule)
        self.masks = Masks(chosen_targets(recipe, model))
        self.layout = lay_out(recipe, self.masks.targets)
        if scores is None and self.method.learn is not None:
            scores = self.method.learn(self.masks.targets, self.layout.blocks, recipe.own_settings)
        self.scores = scores
        self.remembered: RememberedWeights | None = RememberedWeights(self.masks) if recipe.revives else None
        self.method_run = self._start()
        if saved is not None:
            self.masks.unpack(saved.masks)
            self._require_zeros(
                "the checkpoint's weights and masks belong to different steps; resume from another one"
            )
            self._restore(saved)
        else:
            self._start_from_zeros(model)
        self._check_reachable()
        self._warn_of_rounding()

    def _start(self) -> MethodRun | None:
        """Return the method at work in this run; None where it removes nothing."""
        if self.schedule is None:
            return None
        score, settings = self.method.score, self.recipe.own_settings
        targets = self.masks.targets
        return self.method.start(
            PruningRun(targets, self.layout, self.schedule, score, settings, self.scores)
        )

    def reached(self, step: int) -> bool:
        """Return whether the final sparsity holds after `step` optimizer steps."""
        return self.schedule is None or self.schedule.is_final(step)

    def regularize(self, step: int, scale: float = 1.0) -> float:
        """Let the method add to the gradients of step `step` + 1; return its penalty.

        Call it before gradients are masked: learned scores also use those of removed weights.
        `scale` is the factor that the loss was multiplied by before its gradients were taken.
        """
        if self.method_run is None:
            return 0.0
        whole = None if self.remembered is None else self.remembered.whole
        return self.method_run.gradients(step, scale, whole)

    def update(self, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Recompute and apply the masks, if the schedule says so after `step` optimizer steps."""
        if self.method_run is None:
            return
        self.method_run.update(step)
        if self.method_run.run.schedule.is_update(step):
            self._update(self.method_run, step, optimizer)

    def catch_up(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Reach the final sparsity at once if a changed schedule ends its ramp before the resumed step."""
        if self.method_run is None or not self.method_run.run.schedule.is_final(step):
            return
        if self.remembered is None:
            self._grow(self.method_run, step, optimizer)
            if self.recipe.revives:
                # The checkpoint may hold moments of values that were remembered when it was written.
                self.masks.apply_to_optimizer(optimizer)
            return
        self.remembered.restore()
        run = self.method_run
        grow(self.masks, run.budgets(step), run.scores(), self.layout.blocks)
        self.remembered.withdraw()

    def _update(self, run: MethodRun, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if self.remembered is None:
            self._grow(run, step, optimizer)
            return
        self.remembered.restore()
        choose(self.masks, run.budgets(step), run.scores(), self.layout.blocks)
        self.remembered.withdraw()
        if run.run.schedule.is_last_update(step):
            # Nothing can return any more.
            self.remembered = None
            if optimizer is not None:
                self.masks.apply_to_optimizer(optimizer)

    def _grow(self, run: MethodRun, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if grow(self.masks, run.budgets(step), run.scores(), self.layout.blocks):
            self.masks.apply_to_weights()
            if optimizer is not None:
                self.masks.apply_to_optimizer(optimizer)

    def budgets(self, step: int) -> list[Budget]:
        """Return how many blocks are removed after `step` optimizer steps; empty if zeros are locked."""
        return [] if self.method_run is None else self.method_run.budgets(step)

    def logs(self) -> dict[str, float]:
        """Return what is logged beside each training loss: the sparsity, and what the method logs."""
        return {"sparsity": self.masks.sparsity} | ({} if self.method_run is None else self.method_run.logs())

    @property
    def traffic(self) -> Mapping[str, float]:
        """Memory traffic that the method adds to a step, in bytes for each weight of four bytes."""
        return {} if self.method_run is None else self.method_run.traffic

    def method_state(self) -> dict[str, dict[str, Tensor]]:
        """Return what a checkpoint holds of the method, by the sections of the sidecar."""
        return {} if self.method_run is None else self.method_run.state()

    def switch(self, optimizer: torch.optim.Optimizer | None, mode: str) -> None:
        """Switch an optimizer to the mode `train` or `eval`, if it has modes; removed weights stay zero."""
        if self.remembered is not None and optimizer is not None:
            self.remembered.switch(optimizer, mode)

    def before_optimizer_step(self) -> None:
        """Put the values of removed weights back for the optimizer to move, if they may return."""
        if self.remembered is not None:
            self.remembered.restore()

    def after_step(self, step: int) -> None:
        """Let the method act on the weights after the optimizer's step `step` + 1, as by a proximal step."""
        if self.method_run is not None:
            self.method_run.after_step(step)

    def after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set removed weights to zero again, if the optimizer may have moved them."""
        if self.remembered is not None:
            self.remembered.withdraw()
        elif type(getattr(optimizer, "optimizer", optimizer)) not in KEEPS_ZEROS:
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
                pattern, final = self.recipe.pattern, self.schedule.final
                fixed = parse_pattern(pattern).share is not None
                way_out = f"start from the dense model, since pattern {pattern} fixes the sparsity"
                raise ValueError(
                    f"{removed} weights of {names} are zero already, more than the {asked} that final "
                    f"sparsity {final} removes; {way_out if fixed else 'raise sparsity.schedule.final'}, "
                    "or use method lock"
                )

    def _final_counts(self) -> list[tuple[str, int, int]]:
        """Return for weights ranked together their name, how many are removed, and how many should be."""
        return [
            (
                budget.names[0] if len(budget.names) == 1 else f"{len(budget.names)} targets",
                sum(self.masks.removed(name) for name in budget.names),
                budget.removed * self.layout.blocks[budget.names[0]].size,
            )
            for budget in ([] if self.method_run is None else self.method_run.run.final_budgets)
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Return what a checkpoint stores of this object: packed masks, and other tensors by part."""
        extras = {} if self.remembered is None else {_REMEMBERED: self.remembered.pack()}
        return self.masks.pack(), extras | self.method_state()

    def record(self, model: nn.Module) -> None:
        """Write the sparsity record into the configuration of the model."""
        if self.schedule is None:
            unknown = dict.fromkeys(self.masks.targets.names, (str(UNSTRUCTURED), None))
            write_sparsity_record(model, self.masks, None, None, unknown)
            return
        final, uniform = self.schedule.final, self.recipe.allocation == "uniform"
        layers = {
            name: (self.layout.patterns[name], own if own is not None or not uniform else final)
            for name, own in self.layout.finals.items()
        }
        write_sparsity_record(model, self.masks, self.recipe.pattern, final, layers)

    def _restore(self, saved: SavedState) -> None:
        """Restore the state of a checkpoint; values of removed weights only if an update is left."""
        if self.method_run is None:
            return
        self.method_run.load_state(saved.extras, saved.step)
        if self.remembered is None:
            return
        if self.method_run.run.schedule.is_update_left(saved.step):
            # A checkpoint without them was written after the last update, when these values were dropped.
            if _REMEMBERED in saved.extras:
                self.remembered.unpack(saved.extras[_REMEMBERED])
        else:
            self.remembered = None

    def _warn_of_rounding(self) -> None:
        """Warn of weights whose whole blocks cannot come near the sparsity asked for."""
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
