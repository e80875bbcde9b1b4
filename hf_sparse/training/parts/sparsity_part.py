"""The sparsity of a training run: masks on schedule, a rewound learning rate, scores that are learned."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainingArguments

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.methods.method import LearnedScores
from hf_sparse.targets import Targets
from hf_sparse.training.checkpoints.agreement import require_same_masks
from hf_sparse.training.engine import every_process_saves
from hf_sparse.training.host import Host
from hf_sparse.training.optimizer import join, leave, loss_scale, was_skipped
from hf_sparse.training.parts.lr_rewind import check_rewindable, rewind_by
from hf_sparse.training.parts.part import Run, RunPart, require_one_process_per_device
from hf_sparse.training.parts.resolve import check_targets, make_scores
from hf_sparse.training.parts.sparsifier import Sparsifier

logger = logging.getLogger(__name__)


class SparsityPart(RunPart):
    """Prunes the model of a run, or keeps its zeros; `sparsifier` is None until training begins."""

    def __init__(self, recipe: SparsityRecipe) -> None:
        self.recipe = recipe
        self.sparsifier: Sparsifier | None = None
        self._scores: LearnedScores | None = None
        self._scale = 1.0

    def check(self, trainer: Host) -> None:
        """Raise `ValueError` if model and training arguments do not fit the recipe."""
        require_one_process_per_device(trainer)
        if METHODS[self.recipe.method].learn is not None and every_process_saves(trainer):
            raise ValueError(
                f"the scores of method {self.recipe.method} join the optimizer, and under FSDP its state is "
                "saved for the model's own parameters alone; take method magnitude or group_lasso, or run "
                "with DDP"
            )
        check_targets(self.recipe, trainer.model)
        if self.recipe.lr_rewind:
            check_rewindable(trainer.args.lr_scheduler_type)
        if METHODS[self.recipe.method].learn is not None and trainer.lr_scheduler is not None:
            raise ValueError(
                f"the scores of method {self.recipe.method} join the optimizer when training begins, and the "
                "scheduler passed in optimizers= was made before; pass the optimizer alone"
            )
        if self.recipe.schedule is not None and trainer.args.max_steps > 0:
            self.recipe.schedule.resolve(trainer.args.max_steps)

    def join_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Add the scores that a method learns, at their own learning rate, in place of an earlier run's."""
        leave(optimizer, self._scores.parameters() if self._scores else ())
        self._scores = make_scores(self.recipe, model)
        if self._scores is not None:
            join(optimizer, self._scores.parameters(), lr=self._scores.learning_rate)

    def adapt_scheduler(
        self, scheduler: LRScheduler, given: bool, total_steps: int, args: TrainingArguments
    ) -> None:
        """Rewind the learning rate at mask updates, where the recipe says so."""
        if self.recipe.schedule is None or not self.recipe.lr_rewind:
            return
        if given:
            raise ValueError(
                "lr_rewind builds the learning-rate scheduler from the training arguments; optimizers= has "
                "one; pass the optimizer alone, or set sparsity.lr_rewind=false"
            )
        rewind_by(self.recipe, scheduler, self.recipe.schedule.resolve(total_steps), args)

    def begin(self, run: Run, saved: SavedState | None) -> None:
        """Make the masks of the run, or load them from its checkpoint; remove what is due at this step."""
        self.recipe = run.recipe.sparsity or self.recipe
        saved = saved if run.step else None
        self.sparsifier = Sparsifier(self.recipe, run.model, run.total_steps, saved, self._scores)
        _warn_of_filling(run.model, self.sparsifier.masks.targets)
        if saved is None:
            self.sparsifier.update(0, run.optimizer)
        else:
            self.sparsifier.catch_up(run.step, run.optimizer)
        require_same_masks(self.sparsifier.masks)

    def describe(self) -> Iterator[str]:
        """Yield which weights are pruned, or locked, and which Linears are left out."""
        targets = self._begun.masks.targets
        if self._begun.schedule is None:
            what = f"Locking {self._begun.masks.sparsity:.1%} zeros"
        else:
            final = self._begun.schedule.final
            what = f"Pruning to {final:.1%} by {self.recipe.method}, {self.recipe.pattern}"
        names, entries = targets.names, sum(rows * columns for rows, columns in targets.shapes.values())
        yield f"{what}, in {len(names)} weights of {entries:,} entries, {names[0]} to {names[-1]}"
        for reason, count in Counter(entry.reason for entry in targets.left_out).items():
            yield f"Left out of that: {count} Linears, {reason}"

    def before_forward(self, run: Run, training: bool) -> None:
        """Put optimizers with an evaluation mode into the right one, removed weights at zero."""
        self._begun.switch(run.optimizer, "train" if training else "eval")

    def after_backward(self, run: Run, last: bool) -> float:
        """Add the penalty's gradient and clear the gradients of removed weights; return the penalty."""
        if not last:
            return 0.0
        penalty = self._begun.regularize(run.step, loss_scale(run.accelerator))
        self._begun.masks.apply_to_gradients()
        return penalty

    def before_step(self, run: Run) -> None:
        """Give the optimizer the remembered values of removed weights that may return."""
        self._scale = loss_scale(run.accelerator)
        self._begun.before_optimizer_step()

    def after_step(self, run: Run) -> None:
        """Take the proximal step of a penalty, and put removed weights back to zero."""
        if not was_skipped(run.accelerator, self._scale):
            self._begun.after_step(run.step)
        self._begun.after_optimizer_step(run.optimizer)

    def step_end(self, run: Run) -> None:
        """Update the masks, if the schedule says so; raise `RuntimeError` if processes differ in them."""
        self._begun.update(run.step, run.optimizer)
        if self._begun.schedule is not None and self._begun.schedule.is_update(run.step):
            require_same_masks(self._begun.masks)

    def logs(self) -> dict[str, float]:
        """Return the sparsity, and what the method logs."""
        return self._begun.logs()

    def reached(self, step: int) -> bool:
        """Return whether the final sparsity holds after `step` optimizer steps."""
        return self._begun.reached(step)

    def verify(self, run: Run) -> None:
        """Raise `RuntimeError` unless removed weights are zero and, after the ramp, as many as asked for."""
        self._begun.verify(run.step)

    def record(self, run: Run) -> None:
        """Write the sparsity record into the configuration of the model."""
        self._begun.record(run.model)

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return masks, remembered values, learned scores and the state of a penalty."""
        masks, extras = self._begun.state()
        return {"masks": masks, **extras}

    def end(self, run: Run, best: SavedState | None) -> None:
        """Take the masks of the best model, if it was loaded; check the zeros."""
        if best is not None:
            self._begun.masks.unpack(best.masks)
            # No weight can return any more: the run is over.
            self._begun.remembered = None
        schedule = self.recipe.schedule
        if schedule is not None and not self.reached(run.step):
            logger.warning(
                "Training stopped at step %d, before the ramp's end: sparsity is %.4f, not the recipe's "
                "%.4f.",
                run.step,
                self._begun.masks.sparsity,
                schedule.final,
            )
        self.verify(run)

    @property
    def _begun(self) -> Sparsifier:
        if self.sparsifier is None:
            raise RuntimeError("masks exist only after training has begun; call train first")
        return self.sparsifier


def _warn_of_filling(model: nn.Module, targets: Targets) -> None:
    """Warn if adapters also change removed weights of sparse `targets`; merging them then fills zeros."""
    sparse = {id(target.module) for target in targets if not target.weight.all()}
    filling = [
        name
        for name, module in model.named_modules()
        # Masked adapters change only weights that the base has kept.
        if hasattr(module, "lora_A") and not hasattr(module, "kept") and id(module.base_layer) in sparse
    ]
    if filling:
        logger.warning(
            "%d adapters change removed weights too, such as that of %s: merged, they fill zeros of the "
            "base. SparseLoraConfig makes adapters that do not; merge_adapter(model, prune='again') cuts off "
            "that part.",
            len(filling),
            filling[0],
        )
