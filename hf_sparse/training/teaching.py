"""What a teacher adds to a Trainer."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.distillation.adapters_off import BaseAsTeacher
from hf_sparse.distillation.counts import count_items
from hf_sparse.distillation.gradients import has_gradient
from hf_sparse.distillation.inputs import teacher_inputs
from hf_sparse.distillation.teacher import check_learnable, check_own_tokenizer, has_head
from hf_sparse.recipe import Recipe
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.targets import find_targets
from hf_sparse.training.distiller import Distiller
from hf_sparse.training.locking import is_sparse
from hf_sparse.training.resume import adopt

# What teachers are that nobody gives.
_OWN = {
    "self": "a copy of the model that training starts from",
    "base": "the model with its adapters off",
}


class DistillationMixin:
    """Adds the teacher's losses of `self.recipe` to the training loss of the Trainer below.

    `self.distiller` is None where the recipe has no distillation.
    """

    recipe: Recipe
    distiller: Distiller | None = None

    def _make_distiller(self, teacher: nn.Module | None) -> Distiller | None:
        recipe = self.recipe.distillation
        if recipe is not None and recipe.teacher != "given":
            teacher = self._own_teacher(recipe.teacher, teacher)
        if (recipe is None) != (teacher is None):
            raise ValueError(
                "the recipe has distillation but no teacher was given; pass teacher=, or override "
                "distillation=null"
                if teacher is None
                else "a teacher was given but the recipe has no distillation; leave the teacher out, or add "
                "distillation"
            )
        if recipe is None:
            return None
        self._check_learnable()
        check_own_tokenizer(self.processing_class, teacher)
        distiller = Distiller(recipe, teacher, self.model, self.accelerator)
        if distiller.features and self.args.n_gpu > 1:
            raise ValueError(
                f"{', '.join(distiller.features)} on {self.args.n_gpu} GPUs in one process (DataParallel) is "
                "not supported; start a process for each GPU with torchrun, or set CUDA_VISIBLE_DEVICES to "
                "one of them"
            )
        if distiller.parameters():
            self._check_learned_parameters()
        return distiller

    def _check_learnable(self) -> None:
        check_learnable(self.model, self.recipe.distillation)

    def _check_loss(self) -> None:
        """Raise `ValueError` where an encoder without a head is to be trained, and nothing gives a loss."""
        own = (DistillationMixin.compute_loss, Trainer.compute_loss)
        theirs = (type(self).compute_loss, super().compute_loss.__func__) != own
        given = self.distiller is not None or self.compute_loss_func is not None or theirs
        if self.recipe != Recipe() and not given and not has_head(self.model):
            raise ValueError(
                f"{type(self.model).__name__} has no loss of its own, so it would learn nothing; add "
                "distillation with task: 0, logits: 0 and a weight for hidden, attention or relations, "
                "load the model with a head, or pass compute_loss_func"
            )

    def _adopt(self, saved: SavedState | None) -> None:
        """Go on as the run that is resumed did, where the recipe leaves open what has another default now."""
        if saved is not None:
            self.recipe = adopt(self.recipe, saved)
            if self.distiller is not None:
                self.distiller.go_by(self.recipe.distillation)

    def _own_teacher(self, kind: str, given: nn.Module | None) -> nn.Module:
        """Make the teacher out of the model itself; raise `ValueError` where that would teach nothing."""
        if given is not None:
            raise ValueError(
                f"a teacher was given but the recipe says teacher: {kind}, {_OWN[kind]}; leave the teacher "
                "out, or override distillation.teacher=given"
            )
        if self.model_init is not None:
            raise ValueError(
                f"teacher: {kind} is {_OWN[kind]}, and model_init makes another one for every run; pass "
                "model= instead"
            )
        if kind == "base":
            return BaseAsTeacher(self.model)
        if (present := _share_removed(self.model)) > 0:
            raise ValueError(
                f"teacher: self copies the dense model that training starts from, and {present:.1%} of this "
                "one is zero already, so what it was is gone; pass the dense model that it was made from as "
                "teacher= (--teacher_name_or_path) with distillation.teacher=given, or start from that one"
            )
        return copy.deepcopy(self.model)

    def _check_learned_parameters(self) -> None:
        way_out = "take a teacher of the student's hidden size, or leave hidden out of distillation"
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                f"the projections to the teacher's width are not sharded under FSDP or DeepSpeed; {way_out}"
            )
        if self.model_init is not None:
            raise ValueError(
                "the projections to the teacher's width belong to one student, and model_init makes another "
                f"one for every run; pass model= instead, or {way_out}"
            )
        if self.lr_scheduler is not None:
            raise ValueError(
                "the projections to the teacher's width join the optimizer when training begins, and the "
                f"scheduler passed in optimizers= was made before; pass the optimizer alone, or {way_out}"
            )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create the optimizer; what is learned beside the student joins it at the base learning rate."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.distiller is not None:
            join(optimizer, self.distiller.parameters())
        return optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Load batches for training, with the columns that the teacher reads beside those of the student."""
        if self.distiller is None:
            return super().get_train_dataloader()
        self._set_signature_columns_if_needed()
        own = self._signature_columns
        self._signature_columns = [*own, *sorted(self.distiller.teacher_takes.names - set(own))]
        try:
            return super().get_train_dataloader()
        finally:
            self._signature_columns = own

    def _students(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out what only the teacher reads, so that the student is given what Trainer would give it."""
        self._set_signature_columns_if_needed()
        student, teacher = self.distiller.student_takes, self.distiller.teacher_takes
        own = student.names | {*self._signature_columns}
        if student.others and not self.args.remove_unused_columns:
            return dict(inputs)
        return {name: value for name, value in inputs.items() if name in own or name not in teacher.names}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Tensor | int | None]:
        """Collect the micro-batches of one optimizer step, counting what the loss will be divided by."""
        batches, num_items = super().get_batch_samples(*args, **kwargs)
        if self.distiller is not None:
            self.distiller.begin_step(self.model, batches)
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the task's loss, in training with the teacher's added; evaluation sees the task's alone."""
        if self.distiller is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        with self.distiller.watching(self.model) as watched:
            # A copy, because label smoothing takes the labels out of what it is given.
            seen = self._students(inputs) | self.distiller.forward_options(self.model)
            if self.distiller.needs_task(inputs):
                task, outputs = self._mean_loss(model, seen)
                if not has_gradient(outputs):
                    # Some Trainers compute the loss without what they return, as TRL's without logits.
                    outputs = model(**teacher_inputs(seen))
            else:
                task, outputs = None, model(**teacher_inputs(seen))
        loss = self.distiller.loss(self.model, task, outputs, watched, inputs, self._divided_by())
        return (loss, outputs) if return_outputs else loss

    def _mean_loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Return the task's mean loss over one micro-batch, with the outputs of the model.

        Whatever divides by `num_items_in_batch` is given the count of this micro-batch.
        """
        items, function = count_items(inputs, self.distiller.shifts_labels), self.compute_loss_func
        if not callable(function):
            return super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=items)

        def counted(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
            return function(outputs, labels, num_items_in_batch=items)

        # Trainer multiplies by the number of processes where it hands over a count, which is of all of them.
        self.compute_loss_func = counted
        try:
            return super().compute_loss(model, inputs, return_outputs=True)
        finally:
            self.compute_loss_func = function

    def _divided_by(self) -> int:
        """Return by what Trainer divides the loss of a micro-batch, to take the mean over micro-batches.

        It leaves that to a loss function of the user's own, and to a Trainer that says it is done.
        """
        scaled = self.compute_loss_func is not None
        # Before transformers 5.19 Trainer does not look at it.
        if getattr(self, "loss_is_scaled_for_ga", None) is not None and hasattr(
            Trainer, "loss_is_scaled_for_ga"
        ):
            scaled = self.loss_is_scaled_for_ga
        return 1 if scaled else self.current_gradient_accumulation_steps

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run forward and backward; after the last micro-batch, average gradients that DDP does not know."""
        if self.distiller is None:
            return super().training_step(*args, **kwargs)
        with self._dividing():
            loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.distiller.end_step()
        return loss

    @contextmanager
    def _dividing(self) -> Iterator[None]:
        """Have Trainer divide by the accumulation steps, which it leaves to models that take a count.

        Encoders take it and ignore it; with a loss of our own, the division is always wanted.
        """
        accepted, self.model_accepts_loss_kwargs = self.model_accepts_loss_kwargs, False
        try:
            yield
        finally:
            self.model_accepts_loss_kwargs = accepted

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor | None, Any, Any]:
        """Evaluate a batch as Trainer does, without what only the teacher reads."""
        if self.distiller is not None:
            inputs = self._students(inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with each loss term beside every training loss."""
        if "loss" in logs and self.distiller is not None:
            logs.update(self.distiller.drain_logs())
        super().log(logs, *args, **kwargs)


def _share_removed(model: nn.Module) -> float:
    try:
        targets = find_targets(model)
    except ValueError:
        # Nothing to prune, so nothing that was.
        return 0.0
    return measure_sparsity(model, targets).overall if is_sparse(model, targets) else 0.0


def join(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], **settings: float) -> None:
    """Add a group of parameters without weight decay, unless they are in the optimizer already."""
    present = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    new = [parameter for parameter in parameters if id(parameter) not in present]
    if new:
        optimizer.add_param_group({"params": new, "weight_decay": 0.0} | settings)


def leave(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Take the group of parameters that joined for an earlier run out of an optimizer, with their state."""
    gone = {id(parameter): parameter for parameter in parameters}
    optimizer.param_groups[:] = [
        group for group in optimizer.param_groups if not any(id(entry) in gone for entry in group["params"])
    ]
    for parameter in gone.values():
        optimizer.state.pop(parameter, None)
