"""Pruning and quantization under DeepSpeed ZeRO, or why they are refused there."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_sparse.checkpoint.sidecar import SavedState
from hf_sparse.checkpoint.sparsity_record import read_sparsity_record
from hf_sparse.distillation.base_teacher import BaseAsTeacher
from hf_sparse.recipe.quantization import QuantizationRecipe
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.training.host import Host
from hf_sparse.training.parts.part import Run, RunPart
from hf_sparse.training.parts.partitions import (
    GATHERED_TO_SAVE,
    WEIGHTS,
    Partitions,
    inner_optimizer,
    is_divided,
    saves_in_parts,
    setting,
    stage,
    whole,
)
from hf_sparse.training.parts.quantization_part import QuantizationPart
from hf_sparse.training.parts.sparsifier import KEEPS_ZEROS
from hf_sparse.training.parts.sparsity_part import SparsityPart

# Like those of PyTorch, their step leaves a zero weight with zero gradient and zero state at zero.
_DEEPSPEEDS = ("FusedAdam", "DeepSpeedCPUAdam")

_DDP = "run with DDP, which torchrun does without deepspeed="
_STAGES = (1, 2, WEIGHTS)

# Settings of DeepSpeed that change what this package reaches, the values that switch them off, the way out.
_LEFT_OFF: dict[str, tuple[Any, ...]] = {
    "tensor_parallel.autotp_size": (None, 0, 1),
    "zero_optimization.offload_param.device": (None, "none"),
    "zero_optimization.offload_optimizer.device": (None, "none", "cpu"),
    "zero_optimization.zero_quantized_weights": (None, False),
    "zero_optimization.zero_quantized_gradients": (None, False),
    "zero_optimization.mics_shard_size": (None, -1),
    "zero_optimization.zero_hpz_partition_size": (None, 0, 1),
}


def readable(model: nn.Module, recipe: Recipe) -> AbstractContextManager[None]:
    """Gather a model that was loaded under ZeRO-3, to look at its weights before a run.

    With an empty recipe, weights that no sparsity record speaks of stay divided: gathering them takes memory.
    """
    looked_at = recipe != Recipe() or read_sparsity_record(model) is not None
    return whole(model.parameters() if looked_at else ())


def parts_on_weights(trainer: Host, recipe: Recipe) -> Iterator[RunPart]:
    """Yield the parts of a run that write to weights or layers, sparsity last."""
    divided = trainer.is_deepspeed_enabled
    if recipe.quantization is not None:
        quantizes = ZeroQuantizationPart if divided else QuantizationPart
        yield quantizes(recipe.quantization, trainer.model)
    if recipe.sparsity is not None:
        yield (ZeroSparsityPart if divided else SparsityPart)(recipe.sparsity)


def check_run(trainer: Host, recipe: Recipe, teacher: nn.Module | None) -> None:
    """Raise `ValueError` for a teacher, or ways to save, that do not fit ZeRO-3."""
    if stage(trainer) != WEIGHTS or recipe == Recipe():
        return
    if saves_in_parts(trainer):
        raise ValueError(
            f"DeepSpeed's {GATHERED_TO_SAVE} is false, so "
            "checkpoints and models would lack model.safetensors, beside which masks, ranges and recipe are "
            "saved; set it to true"
        )
    if isinstance(teacher, BaseAsTeacher):
        raise ValueError(
            "teacher: base runs the layers of the student out of turn, and ZeRO-3 gathers their weights in "
            "the order of the student's passes; take stage 1 or 2, or pass the base model as teacher= with "
            "distillation.teacher=given"
        )
    if teacher is not None and any(map(is_divided, teacher.parameters())):
        raise ValueError(
            "the teacher was loaded while ZeRO-3 divides every model that is loaded, and only the trained "
            "model is gathered in its forward pass; load the teacher before the TrainingArguments are made"
        )


class ZeroSparsityPart(SparsityPart):
    """Prunes, or keeps zeros, where DeepSpeed takes the optimizer's step inside of the backward pass.

    Gradients of removed weights are cleared as they are computed. When masks change, so do the optimizer's
    copies of the weights and its states. With revival these copies hold the values that removed weights would
    have, and the model's weights are masked after each step.
    """

    _partitions: Partitions | None = None
    # States of a checkpoint are out of reach until the next step, which may move weights by old momentum.
    _late = False

    def check(self, trainer: Host) -> None:
        """Raise `ValueError` if model, training arguments and settings of DeepSpeed do not fit the recipe."""
        _require_reachable(trainer)
        if METHODS[self.recipe.method].needs_training:
            raise ValueError(
                f"method {self.recipe.method} changes gradients or weights at every step, and DeepSpeed "
                f"holds them in parts; {_DDP}, or take method magnitude"
            )
        if self.recipe.revives and stage(trainer) == WEIGHTS:
            raise ValueError(
                "revive needs the values of removed weights at every step, and ZeRO-3 holds weights in "
                "parts; take stage 1 or 2, or set sparsity.revive=false"
            )
        if self.recipe.lr_rewind and setting(trainer, "scheduler") is not None:
            raise ValueError(
                "lr_rewind builds the learning-rate scheduler from the training arguments, and the "
                "configuration of DeepSpeed has one; leave scheduler out of it, or set "
                "sparsity.lr_rewind=false"
            )
        super().check(trainer)

    def begin(self, run: Run, saved: SavedState | None) -> None:
        """Make or load the masks, and clear removed weights wherever DeepSpeed keeps them."""
        _require_kept_zeros(inner_optimizer(run.optimizer))
        with whole(run.model.parameters(), write=True):
            super().begin(run, saved)
        if self._partitions is not None:
            for hook in self._hooks:
                hook.remove()
        self._partitions = Partitions(self._begun.masks, run.optimizer)
        self._hooks: list[RemovableHandle] = self._partitions.mask_gradients()
        if self._begun.remembered is None:
            self._partitions.clear(states=False)
            removed_more = saved is not None and not _same(saved.masks, self._begun.masks.pack())
            self._late = run.step > 0 and (removed_more or self.recipe.revives)

    def describe(self) -> Iterator[str]:
        """Yield which weights are pruned, or locked, and which Linears are left out."""
        with whole(self._parameters):
            yield from super().describe()

    def after_backward(self, run: Run, last: bool) -> float:
        """Mask the weights that revival has let the optimizer move; DeepSpeed has taken its step already."""
        if last and self._begun.remembered is not None and not _was_skipped(run):
            self._begun.remembered.withdraw()
        return 0.0

    def before_step(self, run: Run) -> None:
        """Do nothing: the step was taken in the backward pass."""

    def after_step(self, run: Run) -> None:
        """Do nothing: removed weights without gradient and state have stayed zero."""

    def step_end(self, run: Run) -> None:
        """Update the masks, if the schedule says so, also where DeepSpeed keeps weights and states."""
        schedule = self._begun.schedule
        if self._late and self._partitions is not None:
            self._late = False
            with whole(self._parameters, write=True):
                self._begun.masks.apply_to_weights()
            self._partitions.clear(states=True)
        if schedule is None or not schedule.is_update(run.step):
            return
        before, revived = self._begun.masks.sparsity, self._begun.remembered is not None
        with whole(self._parameters, write=True):
            super().step_end(run)
        ended = revived and self._begun.remembered is None
        if self._partitions is not None and (ended or (not revived and self._begun.masks.sparsity != before)):
            self._partitions.clear(states=True)

    def verify(self, run: Run) -> None:
        """Raise `RuntimeError` unless removed weights are zero and, after the ramp, as many as asked for."""
        with whole(self._parameters):
            super().verify(run)

    def record(self, run: Run) -> None:
        """Write the sparsity record into the configuration of the model."""
        with whole(self._parameters):
            super().record(run)

    @property
    def _parameters(self) -> Iterable[nn.Parameter]:
        return () if self._partitions is None else self._partitions.parameters


class ZeroQuantizationPart(QuantizationPart):
    """Quantizes where DeepSpeed, unlike DDP, keeps no gradients."""

    def __init__(self, recipe: QuantizationRecipe, model: nn.Module) -> None:
        super().__init__(recipe, model)
        self._reached: set[str] = set()
        self._hooks: list[RemovableHandle] = []

    def check(self, trainer: Host) -> None:
        """Raise `ValueError` if training arguments and settings of DeepSpeed do not fit the recipe."""
        _require_reachable(trainer)
        super().check(trainer)

    def begin(self, run: Run, saved: SavedState | None) -> None:
        """Start with the ranges of the checkpoint, or with none, in float32."""
        for module in self.quantizer.modules.values():
            for name in ("input_low", "input_high"):
                # DeepSpeed has cast all of the model to its own precision.
                module.register_buffer(name, getattr(module, name).float(), persistent=False)
        super().begin(run, saved)
        self._reached.clear()
        self._hooks = [
            module.weight.register_hook(lambda gradient, name=name: self._reached.add(name))
            for name, module in self.quantizer.modules.items()
            if module.weight.requires_grad
        ]

    def after_backward(self, run: Run, last: bool) -> float:
        """Refuse, after the first backward pass, layers whose weight is used past their `forward`."""
        if run.accelerator is not None and self._hooks:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self.quantizer.check_called(run.accelerator, self._reached)
        return 0.0


def _require_kept_zeros(optimizer: torch.optim.Optimizer) -> None:
    """Raise `ValueError` for an optimizer whose step may change a zero weight."""
    kind = type(optimizer)
    deepspeeds = kind.__module__.startswith("deepspeed.") and kind.__name__ in _DEEPSPEEDS
    if kind not in KEEPS_ZEROS and not deepspeeds:
        names = ", ".join([known.__name__ for known in KEEPS_ZEROS] + list(_DEEPSPEEDS))
        raise ValueError(
            f"{kind.__name__} may move removed weights off zero, and DeepSpeed holds the optimizer's copies "
            f"of them in parts; take {names}, as by --optim adamw_torch"
        )


def _require_reachable(trainer: Host) -> None:
    """Raise `ValueError` for settings of DeepSpeed under which weights and states cannot be reached."""
    if (number := stage(trainer)) not in _STAGES:
        raise ValueError(
            f"pruning or quantizing under DeepSpeed needs ZeRO stage 1, 2 or 3, got stage {number}; set "
            f"zero_optimization.stage, or {_DDP}"
        )
    for name, off in _LEFT_OFF.items():
        if (value := setting(trainer, name)) not in off:
            raise ValueError(
                f"pruning or quantizing under DeepSpeed is not supported with {name}={value}; leave it out "
                "of DeepSpeed's configuration"
            )


def _same(saved: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    return saved.keys() == masks.keys() and all(torch.equal(saved[name], masks[name]) for name in masks)


def _was_skipped(run: Run) -> bool:
    return run.accelerator is not None and run.accelerator.optimizer_step_was_skipped
