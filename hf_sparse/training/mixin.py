"""Turn the hooks of Trainer into events of a training run, and pass them to its parts."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, SaveStrategy

from hf_sparse.atomic.directories import require_writable
from hf_sparse.checkpoint.run_record import record_of
from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.checkpoint.sparsity_record import lost_zeros
from hf_sparse.distillation.teacher import check_learnable
from hf_sparse.distillation.teacher_cache import TeacherCache, as_cache
from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.shards import reshard
from hf_sparse.training.announcement import announce, report_recipe
from hf_sparse.training.checkpoints import resume
from hf_sparse.training.checkpoints.atomic_checkpoints import AtomicCheckpoints
from hf_sparse.training.engine import as_first_decides
from hf_sparse.training.finite import require_finite_weights
from hf_sparse.training.host import HeardEvents
from hf_sparse.training.parts import zero
from hf_sparse.training.parts.distillation_part import DistillationPart, find_teacher, require_loss
from hf_sparse.training.parts.distiller import Distiller
from hf_sparse.training.parts.part import EVENTS, Run, RunPart, write_beside
from hf_sparse.training.parts.quantization_part import QuantizationPart
from hf_sparse.training.parts.quantizer import Quantizer
from hf_sparse.training.parts.resolve import explain_lost, settle
from hf_sparse.training.parts.sparsifier import Sparsifier
from hf_sparse.training.parts.sparsity_part import SparsityPart
from hf_sparse.training.trials import TrialsMixin


class PartsMixin(HeardEvents, TrialsMixin, AtomicCheckpoints):
    """`SparseTrainerMixin` without pushing to the Hub."""

    parts: Sequence[RunPart] = ()
    """What the recipe asks for, sparsity last: it clears gradients that other parts may have changed."""
    _running: Sequence[RunPart] = ()
    """The same once training has begun, for events that need what `begin` prepares."""

    def __init__(
        self,
        *args: Any,
        recipe: Recipe | None = None,
        teacher: nn.Module | None = None,
        teacher_cache: TeacherCache | str | Path | None = None,
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
        self.given_recipe, self.given_teacher = (given := recipe or Recipe()), teacher
        self.teacher_cache = as_cache(teacher_cache, given.distillation is not None)
        self.allow_schedule_change = allow_schedule_change
        self.facts: dict[str, str] = {}
        self._resumed: SavedState | None = None
        self._reading = ExitStack()
        self._make_parts(given)

    @property
    def sparsifier(self) -> Sparsifier | None:
        """Masks and schedule of this run; None before training begins, or without sparsity."""
        return next((part.sparsifier for part in self.parts if isinstance(part, SparsityPart)), None)

    @property
    def distiller(self) -> Distiller | None:
        """Teacher and loss terms of this run; None without distillation."""
        return next((part.distiller for part in self.parts if isinstance(part, DistillationPart)), None)

    @property
    def quantizer(self) -> Quantizer | None:
        """Quantized layers of this run; None without quantization."""
        return next((part.quantizer for part in self.parts if isinstance(part, QuantizationPart)), None)

    def _make_parts(self, recipe: Recipe) -> None:
        """Make the parts of a run under a recipe; raise as `__init__` does."""
        self._in_force, self._running = recipe, ()
        with zero.readable(self.model, recipe):
            settled = as_first_decides(self, lambda: settle(recipe.sparsity, self.model))
            self.recipe = recipe = recipe.model_copy(update={"sparsity": settled})
            parts: list[RunPart] = []
            teacher = find_teacher(recipe.distillation, self.given_teacher, self)
            zero.check_run(self, recipe, teacher)
            if recipe.distillation is not None and teacher is not None:
                self._check_learnable(recipe.distillation)
                parts.append(DistillationPart(recipe.distillation, teacher, self, self.teacher_cache))
            parts += zero.parts_on_weights(self, recipe)
            for part in parts:
                part.check(self)
        self.parts = parts

    def _check_learnable(self, recipe: DistillationRecipe) -> None:
        check_learnable(self.model, recipe)

    @property
    def _run(self) -> Run:
        step, total = self.state.global_step, self.state.max_steps
        return Run(self.recipe, self.model, self.optimizer, step, total, self.accelerator)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer; the parameters of parts join it, such as projections and learned scores."""
        optimizer = super().create_optimizer(*args, **kwargs)
        for part in self.parts:
            part.join_optimizer(optimizer, self.model)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Create the learning-rate scheduler, rewound at mask updates where the recipe says so."""
        given = self.lr_scheduler is not None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        for part in self.parts:
            part.adapt_scheduler(scheduler, given, num_training_steps, self.args)
        return scheduler

    def get_train_dataloader(self) -> DataLoader:
        """Load batches for training, with the columns that parts read beside those of the model."""
        if not (columns := {name for part in self.parts for name in part.columns()}):
            return super().get_train_dataloader()
        self._set_signature_columns_if_needed()
        own = self._signature_columns
        self._signature_columns = [*own, *sorted(columns - set(own))]
        try:
            return super().get_train_dataloader()
        finally:
            self._signature_columns = own

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Collect the micro-batches of one optimizer step, and show them to the parts."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        for part in self.parts:
            part.before_batch(self._run, batches)
        return batches, num_items

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the task's loss, in training with the teacher's added."""
        compute = super().compute_loss
        for part in self.parts if model.training else ():
            compute = part.wrap_loss(self, compute)
        return compute(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a micro-batch forward and backward, and let the parts change gradients and loss."""
        for part in self._running:
            part.before_forward(self._run, training=True)
        accepted = self.model_accepts_loss_kwargs
        if any(part.computes_loss for part in self.parts):
            # Encoders take the count of items and ignore it, so Trainer has to divide by the steps.
            self.model_accepts_loss_kwargs = False
        try:
            loss = super().training_step(*args, **kwargs)
        finally:
            self.model_accepts_loss_kwargs = accepted
        # Here and not in a callback: callbacks see gradients after clipping, when the norm has been taken.
        run, last = self._run, self.accelerator.sync_gradients
        added = [part.after_backward(run, last) for part in self._running]
        return loss + sum(added) if any(added) else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate, with removed weights at zero under optimizers that show other weights in evaluation."""
        for part in self._running:
            part.before_forward(self._run, training=False)
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """Evaluate a batch without the columns that only a part reads."""
        for part in self.parts:
            inputs = part.model_inputs(self, inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the sparsity and each loss term beside every training loss."""
        training = "loss" in logs
        for part in self._running if training else ():
            logs.update(part.logs())
        super().log(logs, *args, **kwargs)
        # Only now: the line shows where training diverged.
        if training and self.recipe != Recipe():
            require_finite_weights(self.model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with its sidecar; raise `RuntimeError` if weights are not zero or finite as due."""
        reshard(self.model)
        if self.recipe != Recipe():
            require_finite_weights(self.model)
        if self.sparsifier is None and (lost := lost_zeros(self.model)):
            raise RuntimeError(explain_lost(lost))
        for part in self._running:
            part.verify(self._run)
            part.record(self._run)
        super().save_model(output_dir, _internal_call)

    def write_beside_weights(self, directory: Path) -> None:
        """Write run record and sidecar beside a model that has just been saved."""
        if self.state.max_steps > 0:
            teacher = None if self.distiller is None else self.distiller.teacher
            ended, resumed, facts = self.trained_at, self.resumed, self.facts
            record = record_of(self, self.recipe, teacher=teacher, facts=facts, ended=ended, resumed=resumed)
            write_beside(directory, record, self._run, self._running, self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._resumed = resume.read_resumable(resume_from_checkpoint, self.recipe, self.allow_schedule_change)
        # Some Trainers take no model here.
        given = () if model is None else (model,)
        with resume.loading((*given, self.model)[0], resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *given)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare only models of final sparsity; before that, let `save_strategy="best"` save every one."""
        if not all(part.reached(self.state.global_step) for part in self._running):
            return self.args.save_strategy == SaveStrategy.BEST
        return super()._determine_best_metric(metrics, trial)

    def _hear(self, event: str) -> None:
        # A callback may have called the model, whose outermost weights FSDP2 then leaves whole.
        reshard(self.model)
        match event:
            case "on_train_begin":
                self._begin_training()
            case "on_epoch_begin":
                self.begin_pass()
            case "on_train_end":
                self._end_training()
            case "on_push_begin":
                self.begin_push()
        for part in self._running if event in EVENTS else ():
            getattr(part, EVENTS[event])(self._run)

    def _begin_training(self) -> None:
        """Check a resumed run against its checkpoint, then begin all parts."""
        self._check_loss()
        if self.is_deepspeed_enabled and self.resumed_from is not None:  # It has no `_load_from_checkpoint`.
            self._resumed = resume.read_resumable(self.resumed_from, self.recipe, self.allow_schedule_change)
        saved, self._resumed = self._resumed, None
        if saved is not None:
            self.recipe = resume.adopt(self.recipe, saved)
        if self.resumed_from is not None:
            resume.check_settings(self.resumed_from, self, self.recipe, self.allow_schedule_change)
        if self.is_world_process_zero():
            report_recipe(self.callback_handler.callbacks, self.given_recipe or Recipe(), self.recipe)
        # Open still after a run that ended in an error. load_best_model_at_end reads a checkpoint, too.
        self._reading.close()
        reading = self.model.register_load_state_dict_pre_hook(resume.read_converted)
        self._reading.callback(reading.remove)
        if saved is not None and self.state.global_step:
            state, free = self.state, self.allow_schedule_change
            resume.check_moment(saved, state.global_step, state.max_steps, free)
            if (saved.recipe, saved.total_steps) != (self.recipe, self.state.max_steps):
                # A best model of the old schedule may be less sparse than the new one asks for.
                self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        self._running = ()
        for part in self.parts:
            part.begin(self._run, saved)
            # One by one: if another cannot begin, a model that is saved then has the state of this one.
            self._running = (*self._running, part)
        announce(self.parts)

    def _check_loss(self) -> None:
        own = (PartsMixin.compute_loss, Trainer.compute_loss)
        overridden = (type(self).compute_loss, getattr(super().compute_loss, "__func__", None)) != own
        taught = any(part.computes_loss for part in self.parts)
        given = taught or overridden or self.compute_loss_func is not None
        require_loss(self.model, given or self.recipe == Recipe())

    def _end_training(self) -> None:
        """Let the parts end; after `load_best_model_at_end` with the sidecar of the model that was loaded."""
        self._reading.close()
        # Some Trainers read their best model as they do a checkpoint that they resume from.
        self._resumed = None
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        free = self.allow_schedule_change
        loaded = None if best is None else resume.read_resumable(best, self.recipe, free)
        for part in self._running:
            part.end(self._run, loaded)
