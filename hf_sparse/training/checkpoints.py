"""Checkpoints that are whole or absent."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput, rotate_checkpoints

from hf_sparse.training.files import publish_directory, recover_directories
from hf_sparse.training.pushing import copy_beside_weights, copy_clean

if TYPE_CHECKING:
    import optuna

# Trainer leaves names with an underscore out of what it pushes to the Hub.
_STAGING = "_saving"
_PUSHING = "_pushing"
_WITH_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


class AtomicCheckpoints:
    """Lets a Trainer write each checkpoint beside its place and move it there when it is complete.

    Stock Trainer writes into `checkpoint-N` itself: a process killed in the middle leaves one that
    `resume_from_checkpoint=True` picks up and fails on.
    """

    _staging = False
    _push_pending = False
    _pushed: Path | None = None
    trained_at: datetime | None = None
    resumed = False

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train, after putting right what an earlier process that was killed while saving left behind."""
        self._recover(Path(self.args.output_dir))
        self.trained_at, self.resumed = None, bool(resume_from_checkpoint)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self.trained_at = datetime.now(UTC)
        # Trainer has waited for its uploads.
        self._forget_pushed()
        return result

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Collect the micro-batches of one optimizer step; none where a run has had its last one.

        Trainer looks for the end only after a step: resumed from the checkpoint of its last one, it would
        make one too many, unless that ended an epoch.
        """
        if self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def _get_output_dir(self, trial: "optuna.Trial | dict | None") -> str:
        home = super()._get_output_dir(trial)
        return os.path.join(home, _STAGING) if self._staging else home

    def _save_checkpoint(self, model: nn.Module, trial: "optuna.Trial | dict | None") -> None:
        home = Path(super()._get_output_dir(trial))
        self._recover(home)
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged, final = home / _STAGING / name, home / name
        self._point_to_best(home, staged)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish_directory(staged, final)
            shutil.rmtree(home / _STAGING, ignore_errors=True)
            rotate_checkpoints(
                str(home), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
            )
        self.accelerator.wait_for_everyone()
        if self._push_pending:
            self._push_pending = False
            self._push_from_checkpoint(str(final))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging:
            self._push_pending = True
            return
        if not self.is_world_process_zero():
            # Trainer makes the other processes do nothing here.
            super()._push_from_checkpoint(checkpoint_folder)
            return
        self._pushed = clean = Path(checkpoint_folder)
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not busy:
            self._forget_pushed()
        certain = not busy or self.args.hub_always_push
        if certain and self.args.hub_strategy in _WITH_CHECKPOINTS:
            # Uploaded in the background, so it stays until that is done.
            clean = copy_clean(clean, Path(self.args.output_dir) / _PUSHING)
        try:
            super()._push_from_checkpoint(str(clean))
        finally:
            self._pushed = None

    def begin_push(self) -> None:
        """Copy the sidecar beside the files that Trainer is about to push: it copies only those it knows.

        Called when a push is certain; one that Trainer leaves out must not separate sidecar and weights.
        """
        if self._pushed is not None:
            copy_beside_weights(self._pushed, Path(self.args.output_dir))

    def _forget_pushed(self) -> None:
        if self.args.should_save:
            shutil.rmtree(Path(self.args.output_dir) / _PUSHING, ignore_errors=True)

    def _recover(self, home: Path) -> None:
        if self.args.should_save:
            recover_directories(home / _STAGING, home)
        self.accelerator.wait_for_everyone()

    def _point_to_best(self, home: Path, staged: Path) -> None:
        """Record the best checkpoint under the name it will have, in the state and in the staged file."""
        best = home / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if self.state.best_global_step and (best.name == staged.name or best.is_dir()):
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
