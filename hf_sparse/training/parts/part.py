"""The interface that sparsity, distillation and quantization of a training run share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainingArguments

from hf_sparse.checkpoint.run_record import RunRecord, write_record
from hf_sparse.checkpoint.sidecar import SavedState, write_state
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.engine import require_best_is_not_loaded, require_sharded_by_rows
from hf_sparse.training.host import Host

# `Trainer.compute_loss`: model, inputs, return_outputs and more; returns the loss, or (loss, outputs).
ComputeLoss = Callable[..., Any]


@dataclass(frozen=True)
class Run:
    """A training run at one moment, after `step` of `total_steps` optimizer steps.

    `accelerator` is None in a callback.
    """

    recipe: Recipe
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    total_steps: int
    accelerator: Accelerator | None = None


class RunPart:
    """One part of a training run: it overrides the events that it needs, the others do nothing.

    `SparseTrainerMixin` and `SparsityCallback` call every event of every part, in the order of their lists.
    A run calls, in this order: `begin`; `begin_pass` for every epoch; for every optimizer step
    `before_batch`, then for each micro-batch `before_forward`, `wrap_loss`, `after_backward`, then
    `before_step`, `after_step`, `step_end`, `logs`; before a model is saved `verify` and `record`, beside it
    `state`; `end`. A callback calls `after_backward` once for each step, after clipping, and nothing under
    "Only in a Trainer".
    """

    # In a Trainer and in a callback.

    def begin(self, run: Run, saved: SavedState | None) -> None:
        """Prepare for a run that starts, or go on as `saved`, the sidecar of the checkpoint it resumes."""

    def describe(self) -> Iterator[str]:
        """Yield the lines that are logged when training begins: what this part is about to do."""
        return iter(())

    def after_backward(self, run: Run, last: bool) -> float:
        """Change the gradients of a micro-batch; return a number to add to the reported loss.

        `last`: gradients of all micro-batches and processes are accumulated, and not yet clipped.
        """
        return 0.0

    def before_step(self, run: Run) -> None:
        """Prepare the weights for the optimizer's step."""

    def after_step(self, run: Run) -> None:
        """Correct the weights after the optimizer's step; `run.step` does not count it yet."""

    def step_end(self, run: Run) -> None:
        """Follow the schedules of this part to `run.step` optimizer steps."""

    def verify(self, run: Run) -> None:
        """Raise `RuntimeError` if the model is not as this part has to leave it."""

    def record(self, run: Run) -> None:
        """Write what was done into the configuration of the model, which is about to be saved."""

    def state(self) -> dict[str, Mapping[str, Tensor]]:
        """Return this part's tensors for a checkpoint, by section of the sidecar and name."""
        return {}

    def end(self, run: Run, best: SavedState | None) -> None:
        """Finish; `best` is the sidecar of the model that `load_best_model_at_end` has put in place."""

    # Only in a Trainer.

    computes_loss: ClassVar[bool] = False
    """Whether `wrap_loss` returns a mean over the micro-batch, for Trainer to divide by their number."""

    def check(self, trainer: Host) -> None:
        """Raise `ValueError` if model and training arguments do not fit this part."""

    def attach(self, model: nn.Module) -> None:
        """Prepare another model that `model_init` has made, before it has an optimizer."""

    def join_optimizer(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Add parameters of this part to an optimizer that has just been made."""

    def adapt_scheduler(
        self, scheduler: LRScheduler, given: bool, total_steps: int, args: TrainingArguments
    ) -> None:
        """Change a learning-rate scheduler before its first step; `given`: it came from the user."""

    def columns(self) -> frozenset[str]:
        """Return the columns of training data that this part reads beside those of the model."""
        return frozenset()

    def model_inputs(self, trainer: Host, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch without the columns that only this part reads."""
        return inputs

    def begin_pass(self, run: Run) -> None:
        """Prepare for another pass over the training data."""

    def before_batch(self, run: Run, batches: Sequence[Mapping[str, Any]]) -> None:
        """Look at all micro-batches of the next optimizer step in this process."""

    def before_forward(self, run: Run, training: bool) -> None:
        """Prepare the weights for a micro-batch in training, or for an evaluation."""

    def wrap_loss(self, trainer: Host, compute: ComputeLoss) -> ComputeLoss:
        """Return the `compute_loss` that training uses in place of `compute`."""
        return compute

    def logs(self) -> dict[str, float]:
        """Return values by name, to log beside the next training loss."""
        return {}

    def reached(self, step: int) -> bool:
        """Return whether a model after `step` steps is what the recipe asks for, so may be the best one."""
        return True


# The events of a Trainer's callbacks that are events of its parts, too.
EVENTS = {
    "on_epoch_begin": "begin_pass",
    "on_pre_optimizer_step": "before_step",
    "on_optimizer_step": "after_step",
    "on_step_end": "step_end",
}


def saved_state(run: Run, parts: Iterable[RunPart]) -> SavedState:
    """Return the contents of a checkpoint's sidecar for a run at this moment."""
    sections = {name: section for part in parts for name, section in part.state().items()}
    masks = sections.pop("masks", {})
    return SavedState(run.recipe, run.step, run.total_steps, masks, sections)


def write_beside(
    directory: Path, record: RunRecord, run: Run, parts: Iterable[RunPart], writes: bool
) -> None:
    """Write the record of a run, and its sidecar unless the recipe is empty, beside a saved model.

    Only the process that `writes` does, but every one has a part of what a sharded model saves.
    """
    state = None if run.recipe == Recipe() else saved_state(run, parts)
    if not writes:
        return
    write_record(directory, record)
    if state is not None:
        write_state(directory, state)


def require_one_process_per_device(trainer: Host) -> None:
    """Raise `ValueError` for ways to train that change or share out weights while a part writes to them."""
    if trainer.args.auto_find_batch_size:
        raise ValueError(AUTO_BATCH_SIZE)
    if trainer.args.n_gpu > 1:
        raise ValueError(
            f"pruning or quantizing on {trainer.args.n_gpu} GPUs in one process (DataParallel) is not "
            "supported; start a process for each GPU with torchrun, or set CUDA_VISIBLE_DEVICES to one"
        )
    require_sharded_by_rows(trainer.accelerator.state, trainer.model)
    require_best_is_not_loaded(trainer)


AUTO_BATCH_SIZE = (
    "auto_find_batch_size restarts training on weights that are pruned already; "
    "set per_device_train_batch_size and auto_find_batch_size=False"
)
