"""Sparsity for people who keep their own Trainer."""

from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.sidecar import write_state
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.shards import reshard
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.revival import has_modes
from hf_sparse.training.announcement import announce
from hf_sparse.training.checkpoints.agreement import require_same_recipe
from hf_sparse.training.checkpoints.resume import check_moment, read_resumable
from hf_sparse.training.engine import is_sharded, require_sharded_by_rows
from hf_sparse.training.finite import require_finite_weights
from hf_sparse.training.parts.part import AUTO_BATCH_SIZE, Run, RunPart, saved_state
from hf_sparse.training.parts.resolve import check_targets, settle
from hf_sparse.training.parts.sparsifier import Sparsifier
from hf_sparse.training.parts.sparsity_part import SparsityPart


class SparsityCallback(TrainerCallback):
    """Prune by a recipe during any Trainer's run, with a sidecar in every checkpoint.

    A callback sees gradients only after clipping, so the clipped norm includes those of removed weights; it
    cannot change the loss, so a recipe with distillation, a penalty or learned scores is refused; and it
    leaves saving to the Trainer, which a crash can interrupt. `SparseTrainer` has none of these limits.

    Args:
        recipe: What to prune, how and when; it has sparsity and nothing else.
        resume_from_checkpoint: The checkpoint that is also passed to `trainer.train`; by default the one
            of the resumed step in `output_dir`.
        allow_schedule_change: Let a resumed run have another schedule or length.

    Raises:
        ValueError: The recipe is empty, or needs more than a callback can do. When training begins: model or
            training arguments do not fit the recipe, the checkpoint belongs to another run, or other
            processes of the run have another recipe.
    """

    def __init__(
        self, recipe: Recipe, resume_from_checkpoint: str | None = None, allow_schedule_change: bool = False
    ) -> None:
        self.recipe = recipe
        self.resume_from_checkpoint = resume_from_checkpoint
        self.allow_schedule_change = allow_schedule_change
        self._sparsity = SparsityPart(_within_reach(recipe))
        self.parts: list[RunPart] = [self._sparsity]

    @property
    def sparsifier(self) -> Sparsifier | None:
        """Masks and schedule of the run; None before training begins."""
        return self._sparsity.sparsifier

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        require_same_recipe(args, self.recipe)
        model, sparsity = kwargs["model"], self._sparsity.recipe
        _check_arguments(args, sparsity, kwargs["optimizer"])
        require_sharded_by_rows(AcceleratorState(), model)
        reshard(model)
        settled = settle(sparsity, model) or sparsity
        self.recipe = self.recipe.model_copy(update={"sparsity": settled})
        check_targets(settled, model)
        if state.global_step >= state.max_steps and (state.epoch or 0.0) < state.num_train_epochs:
            raise ValueError(
                f"this run has had all of its {state.max_steps} steps, and Trainer would take one more; load "
                "the model from the checkpoint, or resume with SparseTrainer"
            )
        saved = None
        if state.global_step:
            checkpoint = self.resume_from_checkpoint or _checkpoint(args, state)
            saved = read_resumable(checkpoint, self.recipe, self.allow_schedule_change)
            if saved is not None:
                check_moment(saved, state.global_step, state.max_steps, self.allow_schedule_change)
        for part in self.parts:
            part.begin(self._run(state, kwargs), saved)
        announce(self.parts)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run = self._run(state, kwargs)
        for part in self.parts:
            part.after_backward(run, last=True)
        for part in self.parts:
            part.before_step(run)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for part in self.parts:
            part.after_step(self._run(state, kwargs))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run = self._run(state, kwargs)
        for part in self.parts:
            part.step_end(run)
        if control.should_save:
            require_finite_weights(run.model)
            self._record(run)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run = self._run(state, kwargs)
        if control.should_save:
            require_finite_weights(run.model)
        self._record(run)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run = self._run(state, kwargs)
        reshard(run.model)
        for part in self.parts:
            part.verify(run)
        saved = saved_state(run, self.parts) if args.should_save or is_sharded(run.model) else None
        self._record(run)
        if args.should_save and saved is not None:
            write_state(_checkpoint(args, state), saved)
            # Saving may have been requested after the end of the step, when the sparsity was recorded.
            if (_checkpoint(args, state) / CONFIG_NAME).is_file():
                kwargs["model"].config.save_pretrained(_checkpoint(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        run = self._run(state, kwargs)
        reshard(run.model)
        for part in self.parts:
            part.end(run, best=None)
        self._record(run)

    def _run(self, state: TrainerState, given: dict[str, Any]) -> Run:
        model: nn.Module = given["model"]
        return Run(self.recipe, model, given["optimizer"], state.global_step, state.max_steps)

    def _record(self, run: Run) -> None:
        for part in self.parts:
            part.record(run)


def _within_reach(recipe: Recipe) -> SparsityRecipe:
    """Return the sparsity of a recipe; raise `ValueError` for a recipe that a callback cannot follow."""
    sparsity = recipe.sparsity
    if sparsity is None:
        raise ValueError(
            "SparsityCallback needs a recipe with sparsity; leave the callback out to train densely"
        )
    if recipe.distillation is not None:
        raise ValueError(
            "a callback cannot change the loss, so it cannot distill; use SparseTrainer or "
            "SparseTrainerMixin, "
            "or leave distillation out of the recipe"
        )
    if recipe.quantization is not None:
        raise ValueError(
            "a callback comes after the optimizer is made, too late to quantize; use SparseTrainer or "
            "SparseTrainerMixin, or leave quantization out of the recipe"
        )
    if METHODS[sparsity.method].needs_training:
        raise ValueError(
            f"a callback can neither change the loss nor add learned scores to an optimizer, as method "
            f"{sparsity.method} does; use SparseTrainer or SparseTrainerMixin, or method magnitude"
        )
    if sparsity.lr_rewind:
        raise ValueError(
            "a callback comes after the learning-rate scheduler is made, so it cannot rewind it; "
            "use SparseTrainer or SparseTrainerMixin, or set sparsity.lr_rewind=false"
        )
    return sparsity


def _check_arguments(args: TrainingArguments, sparsity: SparsityRecipe, optimizer: Any) -> None:
    """Raise `ValueError` for training arguments under which a callback comes too late."""
    if args.auto_find_batch_size:
        raise ValueError(AUTO_BATCH_SIZE)
    if args.deepspeed_plugin is not None:
        raise ValueError(
            "a callback comes after the step that DeepSpeed takes in the backward pass, so it cannot keep "
            "removed weights at zero; use SparseTrainer or SparseTrainerMixin, or run without deepspeed="
        )
    if args.load_best_model_at_end and sparsity.schedule is not None:
        raise ValueError(
            "a callback cannot keep load_best_model_at_end from choosing a model saved before the final "
            "sparsity; "
            "use SparseTrainer, or set load_best_model_at_end=False"
        )
    if sparsity.revives and has_modes(optimizer):
        raise ValueError(
            f"{args.optim} shows other weights in evaluation, and a callback hears of the switch too late to "
            "keep removed weights at zero; use SparseTrainer, or set sparsity.revive=false"
        )


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
