"""Distillation as a part of a run: find the teacher, and add its losses, computed by `distiller.py`."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.distillation.base_teacher import BaseAsTeacher
from hf_sparse.distillation.batch_counts import count_items
from hf_sparse.distillation.features import term_names
from hf_sparse.distillation.inputs import teacher_inputs
from hf_sparse.distillation.teacher import check_own_tokenizer, has_head
from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.targets import find_targets
from hf_sparse.training.engine import (
    as_first_decides,
    fill_from_first,
    is_sharded,
    only_first_reads,
    require_data_parallel,
)
from hf_sparse.training.host import Host
from hf_sparse.training.optimizer import join
from hf_sparse.training.parts.distiller import Distiller
from hf_sparse.training.parts.part import ComputeLoss, Run, RunPart
from hf_sparse.training.parts.resolve import is_sparse

# The section of the sidecar with the parameters of feature terms.
_LEARNED = "distillation"

# Teachers that are made from the student.
_OWN = {
    "self": "a copy of the model that training starts from",
    "base": "the model with its adapters off",
}


class DistillationPart(RunPart):
    """Adds the teacher's losses to the training loss of a Trainer; evaluation sees the task's loss alone."""

    computes_loss = True

    def __init__(self, recipe: DistillationRecipe, teacher: nn.Module, trainer: Host) -> None:
        check_own_tokenizer(trainer.processing_class, teacher)
        state = trainer.accelerator.state
        for model, doing in ((trainer.model, "distilling"), (teacher, "distilling from")):
            require_data_parallel(state, model, doing)
        if only_first_reads(trainer) and not is_sharded(teacher):
            fill_from_first(teacher, trainer.accelerator.device)
        self.distiller = Distiller(recipe, teacher, trainer.model, trainer.accelerator)
        if self.distiller.features and trainer.args.n_gpu > 1:
            raise ValueError(
                f"{', '.join(self.distiller.features)} on {trainer.args.n_gpu} GPUs in one process "
                "(DataParallel) is not supported; start a process for each GPU with torchrun, or set "
                "CUDA_VISIBLE_DEVICES to one of them"
            )
        if self.distiller.parameters():
            _check_learned_parameters(trainer)

    def join_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Add the parameters of feature terms, at the base learning rate."""
        join(optimizer, self.distiller.parameters())

    def columns(self) -> frozenset[str]:
        """Return the columns that the teacher's forward pass takes."""
        return self.distiller.teacher_takes.names

    def model_inputs(self, trainer: Host, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch without the columns that the teacher alone reads."""
        trainer._set_signature_columns_if_needed()
        student, teacher = self.distiller.student_takes, self.distiller.teacher_takes
        own = student.names | {*trainer._signature_columns}
        if student.others and not trainer.args.remove_unused_columns:
            return dict(inputs)
        return {name: value for name, value in inputs.items() if name in own or name not in teacher.names}

    def begin(self, run: Run, saved: SavedState | None) -> None:
        """Discard the counts of earlier steps; take the accelerator of this run and the saved state."""
        if saved is not None and run.recipe.distillation is not None:
            self.distiller.go_by(run.recipe.distillation)
        if run.accelerator is not None:
            self.distiller.begin_training(run.accelerator)
        if saved is not None:
            self.distiller.load_state(saved.extras.get(_LEARNED, {}))

    def describe(self) -> Iterator[str]:
        """Yield the class of the teacher."""
        yield f"Learning from a teacher, {type(self.distiller.teacher).__name__}"

    def before_batch(self, run: Run, batches: Sequence[Mapping[str, Any]]) -> None:
        """Count the items that the losses of the next optimizer step are divided by."""
        self.distiller.begin_step(run.model, batches)

    def after_backward(self, run: Run, last: bool) -> float:
        """Average the gradients of feature terms over processes; DDP averages those of the model alone."""
        if last:
            self.distiller.average_gradients()
        return 0.0

    def logs(self) -> dict[str, float]:
        """Return the mean of each loss term since the last call."""
        return self.distiller.drain_logs()

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return the parameters of feature terms."""
        return {_LEARNED: self.distiller.state()}

    def end(self, run: Run, best: SavedState | None) -> None:
        """Discard the counts of the last step, so that later losses use their own."""
        self.distiller.forget()

    def wrap_loss(self, trainer: Host, compute: ComputeLoss) -> ComputeLoss:
        """Return a `compute_loss` that adds the teacher's losses to what `compute` returns."""
        return partial(self._loss, trainer, compute)

    def _loss(
        self,
        trainer: Host,
        compute: ComputeLoss,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        *_args: Any,
        **_kwargs: Any,
    ) -> Tensor | tuple[Tensor, Any]:
        task: Tensor | None = None
        with self.distiller.watching(trainer.model) as watched:
            # A copy, because label smoothing removes the labels from its inputs.
            seen = self.model_inputs(trainer, inputs) | self.distiller.forward_options(trainer.model)
            if self.distiller.needs_task(inputs):
                task, outputs = self._mean_loss(trainer, compute, model, seen)
                if not _has_gradient(outputs):
                    # Some Trainers return outputs without gradient, such as TRL's if its loss skips logits.
                    outputs = model(**teacher_inputs(seen))
            else:
                outputs = model(**teacher_inputs(seen))
        loss = self.distiller.loss(trainer.model, task, outputs, watched, inputs, _divided_by(trainer))
        return (loss, outputs) if return_outputs else loss

    def _mean_loss(
        self, trainer: Host, compute: ComputeLoss, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """Return the task's mean loss over one micro-batch and the outputs of the model.

        Losses that divide by `num_items_in_batch` receive the count of this micro-batch.
        """
        items, function = count_items(inputs, self.distiller.shifts_labels), trainer.compute_loss_func
        if not callable(function):
            return compute(model, inputs, return_outputs=True, num_items_in_batch=items)

        def counted(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
            return function(outputs, labels, num_items_in_batch=items)

        # Trainer multiplies the loss by the number of processes if it receives a count, because it expects
        # the count of all processes.
        trainer.compute_loss_func = counted
        try:
            return compute(model, inputs, return_outputs=True)
        finally:
            trainer.compute_loss_func = function


def find_teacher(
    recipe: DistillationRecipe | None, given: nn.Module | None, trainer: Host
) -> nn.Module | None:
    """Return the teacher of a run: the one that was passed, or one made from the trainer's model.

    Raises `ValueError` if recipe and teacher contradict each other, or the teacher would equal the student.
    """
    teacher = given
    if recipe is not None and recipe.teacher != "given":
        teacher = _own_teacher(recipe.teacher, given, trainer)
    if (recipe is None) != (teacher is None):
        raise ValueError(
            "the recipe has distillation but no teacher was given; pass teacher=, or override "
            "distillation=null"
            if teacher is None
            else "a teacher was given but the recipe lacks distillation; leave the teacher out, or add "
            "distillation"
        )
    return teacher


def require_loss(model: nn.Module, elsewhere: bool) -> None:
    """Raise `ValueError` for an encoder without a head, unless its loss is computed `elsewhere`."""
    if not elsewhere and not has_head(model):
        raise ValueError(
            f"{type(model).__name__} cannot compute a loss, so it would learn nothing; add distillation with "
            f"task: 0, logits: 0 and a weight for {term_names()}, load the model with a head, or pass "
            "compute_loss_func"
        )


def _own_teacher(kind: str, given: nn.Module | None, trainer: Host) -> nn.Module:
    if given is not None:
        raise ValueError(
            f"a teacher was given but the recipe says teacher: {kind}, {_OWN[kind]}; leave the teacher "
            "out, or override distillation.teacher=given"
        )
    if trainer.model_init is not None:
        raise ValueError(
            f"teacher: {kind} is {_OWN[kind]}, and model_init makes a new one for every run; pass "
            "model= instead"
        )
    if kind == "base":
        return BaseAsTeacher(trainer.model)
    if is_sharded(trainer.model):
        raise ValueError(
            "teacher: self copies the model that training starts from, and PyTorch does not copy one that is "
            "sharded already, like this one; load it a second time and pass it as teacher= with "
            "distillation.teacher=given"
        )
    if (present := as_first_decides(trainer, lambda: _share_removed(trainer.model))) > 0:
        raise ValueError(
            f"teacher: self copies the dense model that training starts from, and {present:.1%} of this "
            "one is zero already; pass the dense model that it was made from as teacher= "
            "(--teacher_name_or_path) with distillation.teacher=given, or start from that model"
        )
    return copy.deepcopy(trainer.model)


def _check_learned_parameters(trainer: Host) -> None:
    """Raise `ValueError` if projections cannot join the optimizer, or would be lost."""
    way_out = "take a teacher of the student's hidden size, or leave hidden out of distillation"
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "the projections to the teacher's width join the optimizer, and under FSDP and DeepSpeed its "
            f"state is saved for the model's own parameters alone; {way_out}, or run with DDP"
        )
    if trainer.model_init is not None:
        raise ValueError(
            "the projections to the teacher's width belong to one student, and model_init makes another "
            f"one for every run; pass model= instead, or {way_out}"
        )
    if trainer.lr_scheduler is not None:
        raise ValueError(
            "the projections to the teacher's width join the optimizer when training begins, and the "
            f"scheduler passed in optimizers= was made before; pass the optimizer alone, or {way_out}"
        )


def _divided_by(trainer: Host) -> int:
    """Return the number of micro-batches that Trainer divides a loss by.

    It is 1 with a loss function of the user and for a Trainer that declares its loss scaled.
    """
    scaled = trainer.compute_loss_func is not None
    # Trainer reads this attribute since transformers 5.19.
    declared = getattr(trainer, "loss_is_scaled_for_ga", None)
    if declared is not None and hasattr(Trainer, "loss_is_scaled_for_ga"):
        scaled = declared
    return 1 if scaled else trainer.current_gradient_accumulation_steps


def _share_removed(model: nn.Module) -> float:
    try:
        targets = find_targets(model)
    except ValueError:
        # A model without targets cannot have been pruned.
        return 0.0
    return measure_sparsity(model, targets).overall if is_sparse(model, targets) else 0.0


def _has_gradient(outputs: Any) -> bool:
    """Return whether the gradient of any output of a model reaches its weights."""
    held = outputs.values() if isinstance(outputs, Mapping) else outputs
    return any(torch.is_tensor(value) and value.requires_grad for value in held or ())
