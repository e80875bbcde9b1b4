"""Checkpoints that are whole or absent."""

import logging
import os
import re
import shutil
import socket
from collections.abc import Collection
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    HubStrategy,
    TrainOutput,
    get_last_checkpoint,
    sort_checkpoints,
)

from hf_sparse.atomic.directories import discard_directory, remove_if_empty, replace_directory
from hf_sparse.atomic.directory_lock import locked
from hf_sparse.atomic.file_group import (
    STAGING,
    FileGroup,
    recover_directories,
    require_same_disk,
    staged_files,
)
from hf_sparse.atomic.files import hash_files
from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import SIDECAR, weight_hashes
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.checkpoints.agreement import failing_together
from hf_sparse.training.checkpoints.manifest import check_checkpoint, write_manifest
from hf_sparse.training.checkpoints.passes import ResumablePasses
from hf_sparse.training.checkpoints.push import copy_beside_weights, copy_clean
from hf_sparse.training.engine import every_process_saves, weights_together
from hf_sparse.training.parts.partitions import saves_in_parts

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Trainer leaves names with an underscore out of what it pushes to the Hub.
_PUSHING = "_pushing"
_WITH_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


class AtomicCheckpoints(ResumablePasses):
    """Makes a Trainer write checkpoints and models beside their places and move them there when complete.

    Stock Trainer writes into `checkpoint-N` itself: a process that is killed meanwhile leaves an incomplete
    checkpoint, which `resume_from_checkpoint=True` selects and fails on. The same holds for a model that is
    saved over another one.
    """

    _staged: str | None = None
    _push_pending = False
    _elsewhere = False
    _pushed: Path | None = None
    trained_at: datetime | None = None
    resumed = False
    # Set by the mixin that inherits from this class.
    recipe: Recipe
    allow_schedule_change: bool

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """Train, after recovering what a process that was killed while saving left behind.

        Raises `ValueError` if another run is using the output directory, or if the checkpoint to resume from
        is missing, incomplete or changed.
        """
        home = Path(super()._get_output_dir(kwargs.get("trial", args[0] if args else None)))
        with ExitStack() as held:
            with failing_together(self, f"claiming {home}"):
                if self.args.should_save:
                    home.mkdir(parents=True, exist_ok=True)
                    require_same_disk(home)
                    held.enter_context(locked(home))
                    recover_directories(home / STAGING, home, MODEL_FILES)
            if resume_from_checkpoint is True:
                resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True
            self.trained_at, self.resumed, self.resumed_from = None, bool(resume_from_checkpoint), None
            if resume_from_checkpoint and resume_from_checkpoint is not True:
                self.resumed_from = Path(resume_from_checkpoint)
                check_checkpoint(self.resumed_from, self)
            result = super().train(resume_from_checkpoint, *args, **kwargs)
            self.trained_at = datetime.now(UTC)
            # Trainer has waited for its uploads.
            self._forget_pushed()
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model and the files that belong to it, so that they are all old or all new."""
        directory = Path(output_dir) if output_dir else self._output
        # Where every process writes its own part, all would have to agree on a place.
        direct = self._staged is not None or saves_in_parts(self)
        staged = self.args.should_save and not direct
        # Trainer may go on to a barrier. Outside of a checkpoint the first process may save alone.
        saving = f"saving {directory.name}"
        agreed = failing_together(self, saving) if self._fails_together else nullcontext()
        with agreed, staged_files(directory, MODEL_FILES) if staged else nullcontext(directory) as place:
            with weights_together(self, self.recipe != Recipe()):
                super().save_model(str(place), _internal_call=True)
            if self.args.should_save or every_process_saves(self):
                self.write_beside_weights(place)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    @property
    def _fails_together(self) -> bool:
        """Whether a checkpoint is saved now, and without a gathering inside at which others would wait."""
        gathers = every_process_saves(self) or self.is_deepspeed_enabled
        return self._staged is not None and not gathers

    def write_beside_weights(self, directory: Path) -> None:
        """Write the files that belong to a model that has just been saved; by default none.

        Called on each process that writes (`args.should_save`), and on all if a model is sharded.
        """

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; at the end of training, delete the last checkpoint if only the best one is to stay.

        Trainer would delete it right after, file by file under its own name.
        """
        super().log(logs, *args, **kwargs)
        best = self.state.best_model_checkpoint
        if _END in logs and self.is_in_train and best and self.args.save_total_limit == 1:
            self._rotate(Path(best).parent, Path(best))

    def _get_output_dir(self, trial: "optuna.Trial | dict[str, Any] | None") -> str:
        home = super()._get_output_dir(trial)
        return home if self._staged is None else os.path.join(home, STAGING, self._staged)

    def _save_checkpoint(self, model: nn.Module, trial: "optuna.Trial | dict[str, Any] | None") -> None:
        home = Path(super()._get_output_dir(trial))
        staging = home / STAGING / self._agreed(_process_name())
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with failing_together(self, f"saving {name}"):
            if self.args.should_save:
                # Files that this process failed to move before.
                recover_directories(staging, home, MODEL_FILES)
        staged, final = staging / name, home / name
        self._staged = staging.name
        try:
            with failing_together(self, f"saving {name}") if self._fails_together else nullcontext():
                super()._save_checkpoint(model, trial)
        finally:
            self._staged = None
        if not self._agreed(staged.is_dir()):
            if not self._elsewhere:
                self._elsewhere = True
                logger.warning(
                    "%s does not write its checkpoints where its _get_output_dir points; they stay as "
                    "written, without a list of their files, and save_total_limit is ignored.",
                    type(self).__name__,
                )
            return
        with failing_together(self, f"saving {name}"):
            self.save_pass(staged)
            self._point_to_best(home, staged)
        with failing_together(self, f"saving {name}"):
            if self.args.should_save:
                write_manifest(staged)
                replace_directory(staged, final)
                self._rotate(home, final)
                shutil.rmtree(staging, ignore_errors=True)
                remove_if_empty(staging.parent)
        if self._push_pending:
            self._push_pending = False
            self._push_from_checkpoint(str(final))

    def _rotate(self, home: Path, newest: Path) -> None:
        """Delete the oldest checkpoints above `save_total_limit`, by step, but neither newest nor best."""
        limit = self.args.save_total_limit
        if not self.args.should_save or limit is None or limit <= 0:
            return
        kept = {str(newest), str(Path(self.state.best_model_checkpoint or newest))}
        checkpoints = sort_checkpoints(str(home))
        others = [checkpoint for checkpoint in checkpoints if checkpoint not in kept]
        for checkpoint in others[: max(len(checkpoints) - max(limit, len(kept)), 0)]:
            discard_directory(Path(checkpoint), home / STAGING / _process_name())

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staged is not None:
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
            clean = copy_clean(clean, self._output / _PUSHING)
        try:
            super()._push_from_checkpoint(str(clean))
        finally:
            self._pushed = None

    def begin_push(self) -> None:
        """Copy the sidecar beside the files that Trainer is about to push, which copies only its own files.

        Called when a push is certain: if Trainer skips one, sidecar and weights must stay together.
        """
        if self._pushed is not None:
            copy_beside_weights(self._pushed, self._output)

    @property
    def _output(self) -> Path:
        # TrainingArguments fills in a default, so it is never None.
        return Path(str(self.args.output_dir))

    def _forget_pushed(self) -> None:
        if self.args.should_save:
            shutil.rmtree(self._output / _PUSHING, ignore_errors=True)

    def _agreed(self, value: T) -> T:
        """Return the value of the first process."""
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def _point_to_best(self, home: Path, staged: Path) -> None:
        """Record the best checkpoint under the name it will have, in the state and in the staged file."""
        best = home / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if self.state.best_global_step and (best.name == staged.name or best.is_dir()):
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(staged / TRAINER_STATE_NAME))


# A key that only the last line of a log has.
_END = "train_runtime"


def _process_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _remove_outdated(directory: Path, names: Collection[str]) -> None:
    """Delete files that belonged to the weights which the given files have just replaced."""
    if not any(map(_WEIGHTS.fullmatch, names)):
        return
    for path in directory.iterdir():
        # Whole weights would be loaded before newer ones in parts.
        if _WEIGHTS.fullmatch(path.name) and path.name not in names:
            path.unlink()
    if SIDECAR not in names and _has_other_sidecar(directory):
        (directory / SIDECAR).unlink()
    if _ADAPTER not in names and (directory / _ADAPTER).is_file():
        logger.warning(
            "%s holds an adapter from an earlier save, which from_pretrained puts on the new model; "
            "delete %s and its weights unless that is intended.",
            directory,
            _ADAPTER,
        )


def _has_other_sidecar(directory: Path) -> bool:
    """Return whether the sidecar in a directory was written beside other weights than those in it."""
    try:
        known = weight_hashes(directory)
        return hash_files(directory, known) != known
    except FileNotFoundError:
        return (directory / SIDECAR).is_file()
    except (ValueError, OSError, SafetensorError):
        # Whoever reads it gets the error.
        return False


_ADAPTER = "adapter_config.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
# The sidecar holds the hashes of its weights: moved first, it shows that the weights beside it are still the
# old ones. The record holds none, so it is moved last. Some models do not write their card but update it.
MODEL_FILES = FileGroup(
    "model-",
    marker=RECORD,
    order=lambda name: (name == RECORD, name != SIDECAR, name),
    updated=("README.md",),
    finish=_remove_outdated,
)
