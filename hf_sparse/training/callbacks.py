"""Sparsity for people who keep their own Trainer."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.sidecar import SavedState, write_state
from hf_sparse.recipe import Recipe
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.remembered import has_modes
from hf_sparse.training.announcing import announce
from hf_sparse.training.finite import require_finite
from hf_sparse.training.laying_out import check_targets
from hf_sparse.training.locking import settle
from hf_sparse.training.resume import check_length, check_step, read_resumable
from hf_sparse.training.sparsifier import Sparsifier


class SparsityCallback(TrainerCallback):
    """Grows and keeps the masks of a recipe during any Trainer's run, with a sidecar in every checkpoint.

    A callback sees gradients only after clipping, so the clipped norm includes those of removed weights; it
    cannot change the loss, so a recipe with distillation, a penalty or learned scores is refused; and it
    leaves saving to the Trainer, which a crash can interrupt. `SparseTrainer` has none of these limits.
    """

    def __init__(
        self, recipe: Recipe, resume_from_checkpoint: str | None = None, allow_schedule_change: bool = False
    ) -> None:
        if recipe.sparsity is None:
            raise ValueError(
                "SparsityCallback needs a recipe with sparsity; leave the callback out to train densely"
            )
        if recipe.distillation is not None:
            raise ValueError(
                "a callback cannot change the loss, so it cannot distil; use SparseTrainer or "
                "SparseTrainerMixin, "
                "or leave distillation out of the recipe"
            )
        if recipe.quantization is not None:
            raise ValueError(
                "a callback comes after the optimizer is made, too late to quantize; use SparseTrainer or "
                "SparseTrainerMixin, or leave quantization out of the recipe"
            )
        if METHODS[recipe.sparsity.method].needs_training:
            raise ValueError(
                f"a callback can neither change the loss nor add what is learned to an optimizer, as method "
                f"{recipe.sparsity.method} does; use SparseTrainer or SparseTrainerMixin, or method magnitude"
            )
        if recipe.sparsity.lr_rewind:
            raise ValueError(
                "a callback comes after the learning-rate scheduler is made, so it cannot rewind it; "
                "use SparseTrainer or SparseTrainerMixin, or set sparsity.lr_rewind=false"
            )
        self.recipe = recipe
        self.resume_from_checkpoint = resume_from_checkpoint
        self.allow_schedule_change = allow_schedule_change
        self.sparsifier: Sparsifier | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        if args.auto_find_batch_size:
            raise ValueError(AUTO_BATCH_SIZE)
        if args.load_best_model_at_end and self.recipe.sparsity.schedule is not None:
            raise ValueError(
                "a callback cannot keep load_best_model_at_end from choosing a model of before the final "
                "sparsity; "
                "use SparseTrainer, or set load_best_model_at_end=False"
            )
        if self.recipe.sparsity.revives and has_modes(optimizer):
            raise ValueError(
                f"{args.optim} shows other weights in evaluation, of which a callback is not told in time to "
                "keep removed ones at zero that may return; use SparseTrainer, or set sparsity.revive=false"
            )
        self.recipe = self.recipe.model_copy(update={"sparsity": settle(self.recipe.sparsity, model)})
        check_targets(self.recipe.sparsity, model)
        if state.global_step >= state.max_steps and state.epoch < state.num_train_epochs:
            raise ValueError(
                f"this run has had all of its {state.max_steps} steps, and Trainer would take one more; load "
                "the model from the checkpoint, or resume with SparseTrainer"
            )
        saved = None
        if state.global_step:
            checkpoint = self.resume_from_checkpoint or _checkpoint(args, state)
            saved = read_resumable(checkpoint, self.recipe, self.allow_schedule_change)
            check_length(saved, state.max_steps, self.allow_schedule_change)
            check_step(saved, state.global_step)
        self.sparsifier = Sparsifier(self.recipe.sparsity, model, state.max_steps, saved)
        if saved is None:
            self.sparsifier.update(0, optimizer)
        else:
            self.sparsifier.catch_up(state.global_step, optimizer)
        announce(self.sparsifier)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sparsifier.masks.apply_to_gradients()
        self.sparsifier.before_optimizer_step()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        self.sparsifier.after_optimizer_step(optimizer)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        self.sparsifier.update(state.global_step, optimizer)
        if control.should_save:
            require_finite(model)
            self.sparsifier.record(model)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        if control.should_save:
            require_finite(model)
        self.sparsifier.record(model)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        self.sparsifier.verify(state.global_step)
        if args.should_save:
            saved = SavedState(self.recipe, state.global_step, state.max_steps, *self.sparsifier.state())
            write_state(_checkpoint(args, state), saved)
            self.sparsifier.record(model)
            # Saving may have been asked for after the step was recorded.
            if (_checkpoint(args, state) / CONFIG_NAME).is_file():
                model.config.save_pretrained(_checkpoint(args, state))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        self.sparsifier.verify(state.global_step)
        self.sparsifier.record(model)


AUTO_BATCH_SIZE = (
    "auto_find_batch_size restarts training on weights that are pruned already; "
    "set per_device_train_batch_size and auto_find_batch_size=False"
)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
