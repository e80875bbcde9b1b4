"""What a recipe adds to a Trainer."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from hf_sparse.atomic.directories import require_writable
from hf_sparse.checkpoint.contract import lost_zeros
from hf_sparse.checkpoint.run_record import record_of, write_record
from hf_sparse.checkpoint.sidecar import SavedState, write_state
from hf_sparse.recipe import Recipe
from hf_sparse.sparsity.methods.method import LearnedScores
from hf_sparse.training.adapters import same_adapters, warn_of_filling
from hf_sparse.training.checkpoints import AtomicCheckpoints
from hf_sparse.training.compatible import check_arguments
from hf_sparse.training.continuing import check_settings
from hf_sparse.training.conversion import read_converted
from hf_sparse.training.events import HeardEvents
from hf_sparse.training.finite import require_finite
from hf_sparse.training.laying_out import make_scores
from hf_sparse.training.locking import explain_lost, settle
from hf_sparse.training.quantizer import Quantizer
from hf_sparse.training.reporting import report_recipe
from hf_sparse.training.resume import check_length, check_step, read_resumable
from hf_sparse.training.rewind import rewind_by
from hf_sparse.training.scaling import loss_scale, was_skipped
from hf_sparse.training.sparsifier import Sparsifier
from hf_sparse.training.teaching import DistillationMixin, join, leave
from hf_sparse.training.trials import TrialsMixin

logger = logging.getLogger(__name__)


class SparseTrainingMixin(HeardEvents, TrialsMixin, DistillationMixin, AtomicCheckpoints):
    """Prunes, distils, quantizes by a recipe in any Trainer; `SparseTrainerMixin` adds publishing to it.

    `recipe`: what to do; none, or an empty one, trains exactly like the Trainer below, except that the zeros
    of a model that is sparse already are kept. `teacher`: the model to distil from, on the same inputs; it is
    frozen, and neither saved nor optimized. `allow_schedule_change`: let a resumed run have another schedule,
    length or other arguments. What only the caller knows of a run, such as its `dataset`, goes into `facts`.

    Raises `ValueError` where recipe, model, teacher and training arguments do not go together.
    """

    def __init__(
        self,
        *args: Any,
        recipe: Recipe | None = None,
        teacher: nn.Module | None = None,
        allow_schedule_change: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(recipe, Recipe | None):
            raise TypeError(
                f"recipe is a Recipe, got {recipe!r}; make one by Recipe.preset(name), "
                "Recipe.from_yaml(path) or Recipe.from_dict(values)"
            )
        if not isinstance(teacher, nn.Module | None):
            raise TypeError(f"teacher is a model, got {teacher!r}; load it, as by load_teacher(name, model)")
        training_args = kwargs.get("args", args[1] if len(args) > 1 else None)
        if training_args is not None and training_args.should_save:
            require_writable(training_args.output_dir)
        super().__init__(*args, **kwargs)
        self.given_recipe, self.given_teacher = recipe or Recipe(), teacher
        self.allow_schedule_change = allow_schedule_change
        self.facts: dict[str, str] = {}
        self.scores: LearnedScores | None = None
        self._resumed: SavedState | None = None
        self._reading: RemovableHandle | None = None
        self.take_up(self.given_recipe)

    def take_up(self, recipe: Recipe) -> None:
        """Prepare the model for a run under a recipe; raise as `__init__` does."""
        self._in_force = recipe
        self.recipe = recipe.model_copy(update={"sparsity": settle(recipe.sparsity, self.model)})
        self.sparsifier: Sparsifier | None = None
        self.distiller = self._make_distiller(self.given_teacher)
        self.quantizer = self.recipe.quantization and Quantizer(self.recipe.quantization, self.model)
        check_arguments(self)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer; scores that a method learns join it, at their own rate, without decay."""
        optimizer = super().create_optimizer(*args, **kwargs)
        sparsity = self.recipe.sparsity
        leave(optimizer, self.scores.parameters() if self.scores else ())
        self.scores = None if sparsity is None else make_scores(sparsity, self.model)
        if self.scores is not None:
            join(optimizer, self.scores.parameters(), lr=self.scores.learning_rate)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Create the learning-rate scheduler, rewound at mask updates where the recipe says so."""
        sparsity = self.recipe.sparsity
        if sparsity is None or not sparsity.lr_rewind:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is not None:
            raise ValueError(
                "lr_rewind builds the learning-rate scheduler from the training arguments; optimizers= has "
                "one; pass the optimizer alone, or set sparsity.lr_rewind=false"
            )
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        rewind_by(sparsity, scheduler, sparsity.schedule.resolve(num_training_steps), self.args)
        return scheduler

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a step; after the last micro-batch, add the penalty, clear gradients of removed weights."""
        if self.sparsifier is not None:
            self.sparsifier.switch(self.optimizer, "train")
        loss = super().training_step(*args, **kwargs)
        if self.quantizer is not None:
            self.quantizer.check_called(self.accelerator)
        # Here and not in a callback: callbacks see gradients after clipping, when the norm has been taken.
        if self.sparsifier is not None and self.accelerator.sync_gradients:
            scale = loss_scale(self.accelerator)
            loss = loss + self.sparsifier.regularize(self.state.global_step, scale)
            self.sparsifier.masks.apply_to_gradients()
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate, with removed weights at zero under optimizers that show other weights in evaluation."""
        if self.sparsifier is not None:
            self.sparsifier.switch(self.optimizer, "eval")
        return super().evaluation_loop(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the sparsity and each loss term beside every training loss."""
        training = "loss" in logs
        if training and self.sparsifier is not None:
            logs |= self.sparsifier.logs()
        super().log(logs, *args, **kwargs)
        # After the line that shows where it went wrong.
        if training and self.recipe != Recipe():
            require_finite(self.model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with its sidecar; raise `RuntimeError` if weights are not zero or finite as due."""
        if self.recipe != Recipe():
            require_finite(self.model)
        if self.sparsifier is not None:
            self.sparsifier.verify(self.state.global_step)
            self.sparsifier.record(self.model)
        elif lost := lost_zeros(self.model):
            raise RuntimeError(explain_lost(lost))
        super().save_model(output_dir, _internal_call)

    def write_beside_weights(self, directory: Path) -> None:
        """Write record and sidecar beside a model that has just been saved."""
        if self.state.max_steps > 0:
            record = record_of(
                self,
                self.recipe,
                teacher=self.distiller and self.distiller.teacher,
                facts=self.facts,
                ended=self.trained_at,
                resumed=self.resumed,
            )
            write_record(directory, record)
            if self.recipe != Recipe():
                write_state(directory, self._state_to_save())

    def _state_to_save(self) -> SavedState:
        masks, extras = ({}, {}) if self.sparsifier is None else self.sparsifier.state()
        if self.distiller is not None:
            extras = extras | {"distillation": self.distiller.state()}
        if self.quantizer is not None:
            extras = extras | {_RANGES: self.quantizer.state()}
        return SavedState(self.recipe, self.state.global_step, self.state.max_steps, masks, extras)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *model: nn.Module) -> None:
        self._resumed = read_resumable(resume_from_checkpoint, self.recipe, self.allow_schedule_change)
        self._adopt(self._resumed)
        reading = (*model, self.model)[0].register_load_state_dict_pre_hook(read_converted)
        try:
            # Some Trainers know of one model alone.
            with same_adapters((*model, self.model)[0], resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, *model)
        finally:
            reading.remove()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare only models of final sparsity; before that, let `save_strategy="best"` save every one."""
        if self.sparsifier is not None and not self.sparsifier.reached(self.state.global_step):
            return self.args.save_strategy == SaveStrategy.BEST
        return super()._determine_best_metric(metrics, trial)

    def begin_sparsity(self, optimizer: torch.optim.Optimizer) -> None:
        """Attach to the model that is about to be trained, a new one or one from a checkpoint."""
        self._check_loss()
        if self.resumed_from is not None:
            check_settings(self.resumed_from, self)
        if self.is_world_process_zero():
            report_recipe(self.callback_handler.callbacks, self.given_recipe, self.recipe)
        if self._reading is not None:
            # Of a run that ended in an error.
            self._reading.remove()
        # load_best_model_at_end reads a checkpoint too.
        self._reading = self.model.register_load_state_dict_pre_hook(read_converted)
        if self.distiller is not None:
            self.distiller.begin_training(self.accelerator)
        saved, self._resumed = self._resumed, None
        if saved is not None and self.distiller is not None:
            self.distiller.load_state(saved.extras.get("distillation", {}))
        if self.quantizer is not None:
            self.quantizer.load_state({} if saved is None else saved.extras.get(_RANGES, {}))
            self.quantizer.begin(self.model, self.state.global_step, self.state.max_steps)
        if saved is not None and self.state.global_step:
            check_length(saved, self.state.max_steps, self.allow_schedule_change)
            check_step(saved, self.state.global_step)
            if (saved.recipe, saved.total_steps) != (self.recipe, self.state.max_steps):
                # A best model of the old schedule may be less sparse than the new one asks for.
                self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        if self.recipe.sparsity is None:
            return
        if self.state.global_step == 0:
            saved = None
        self.sparsifier = Sparsifier(
            self.recipe.sparsity, self.model, self.state.max_steps, saved, self.scores
        )
        warn_of_filling(self.model, self.sparsifier.masks.targets)
        if saved is None:
            self.sparsifier.update(0, optimizer)
        else:
            self.sparsifier.catch_up(self.state.global_step, optimizer)

    def before_optimizer_step(self) -> None:
        """Give the optimizer the weights it is to move, as its step begins."""
        if self.sparsifier is not None:
            self._scale = loss_scale(self.accelerator)
            self.sparsifier.before_optimizer_step()

    def after_optimizer_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Keep removed weights at zero after an optimizer's step, the one after `step` others."""
        if self.sparsifier is not None:
            if not was_skipped(self.accelerator, self._scale):
                self.sparsifier.shrink(step)
            self.sparsifier.after_optimizer_step(optimizer)

    def end_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Do what schedules say is due after `step` steps."""
        if self.sparsifier is not None:
            self.sparsifier.update(step, optimizer)
        if self.quantizer is not None:
            self.quantizer.update(step)

    def end_sparsity(self) -> None:
        """Check the outcome; after `load_best_model_at_end`, take the masks of the model that was loaded."""
        self._reading.remove()
        # Some Trainers read their best model as they do a checkpoint that they resume from.
        self._resumed = None
        if self.distiller is not None:
            self.distiller.forget()
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        loaded = None if best is None else read_resumable(best, self.recipe, self.allow_schedule_change)
        if self.quantizer is not None:
            if loaded is not None:
                self.quantizer.load_state(loaded.extras.get(_RANGES, {}))
            self.quantizer.end()
        if self.sparsifier is None:
            return
        if loaded is not None:
            self.sparsifier.masks.unpack(loaded.masks)
            # It is of the last step.
            self.sparsifier.remembered = None
        if not self.sparsifier.reached(self.state.global_step):
            logger.warning(
                "Training stopped at step %d, before the ramp's end: sparsity is %.4f, not the recipe's "
                "%.4f.",
                self.state.global_step,
                self.sparsifier.masks.sparsity,
                self.recipe.sparsity.schedule.final,
            )
        self.sparsifier.verify(self.state.global_step)


# The part of the sidecar that holds the ranges of quantized layers' inputs.
_RANGES = "ranges"
