"""Whether a checkpoint is one, whole, and of a run with the same settings."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer import (
    OPTIMIZER_NAME,
    OPTIMIZER_NAME_BIN,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_sparse.checkpoint.run_record import changed_settings, read_record
from hf_sparse.recipe import Recipe
from hf_sparse.training.manifest import check_manifest

if TYPE_CHECKING:
    from hf_sparse.training.mixin import SparseTrainingMixin

logger = logging.getLogger(__name__)

# The optimizer brings these along, whatever the arguments say.
_RESTORED = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")


def check_checkpoint(checkpoint: Path, trainer: "SparseTrainingMixin") -> None:
    """Raise `ValueError` for what is no checkpoint, or not as it was saved; warn of one that lacks parts.

    With an empty recipe a warning says what is not as it was saved, since Trainer would go on.
    """
    if not checkpoint.is_dir():
        beside = sorted(
            path.name for path in checkpoint.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()
        )
        raise ValueError(
            f"Can't find a valid checkpoint at {checkpoint}: there is no such directory; name one that is "
            f"there{f', such as {beside[-1]} beside it' if beside else ''}"
        )
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        raise ValueError(
            f"Can't find a valid checkpoint at {checkpoint}: it has no {TRAINER_STATE_NAME}, as a model "
            "has none; resume from a checkpoint-N, or start a new run from that model"
        )
    try:
        check_manifest(checkpoint)
    except ValueError as error:
        if trainer.recipe != Recipe():
            raise
        logger.warning("%s", error)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if not sharded and (parts := _missing(checkpoint, trainer)):
        logger.warning(
            "%s has no %s: what follows is not what an uninterrupted run would have done.",
            checkpoint,
            ", no ".join(parts),
        )


def check_settings(checkpoint: Path, trainer: "SparseTrainingMixin") -> None:
    """Raise `ValueError` if a run is resumed with other training arguments, unless that is allowed.

    With an empty recipe, as where it is allowed, a warning says so; likewise of a record that is none.
    """
    try:
        record = read_record(checkpoint)
    except ValueError as error:
        if trainer.recipe != Recipe():
            raise
        logger.warning("%s", error)
        return
    if not (changed := {} if record is None else changed_settings(record, trainer)):
        return
    said = "; ".join(f"{name} was {before}, is {now}" for name, (before, now) in changed.items())
    kept = [name for name in _RESTORED if name in changed]
    restored = f" The optimizer of the checkpoint keeps its own {', '.join(kept)}." if kept else ""
    if trainer.recipe != Recipe() and not trainer.allow_schedule_change:
        raise ValueError(
            f"{checkpoint} was written with other training arguments ({said}), so the run would go on as "
            f"another one; resume with its own, or pass allow_schedule_change.{restored}"
        )
    logger.warning("%s was written with other training arguments (%s).%s", checkpoint, said, restored)


def _missing(checkpoint: Path, trainer: "SparseTrainingMixin") -> list[str]:
    """Return the parts of a state of training that a checkpoint lacks."""
    several = trainer.args.world_size > 1
    random_state = f"rng_state_{trainer.args.process_index}.pth" if several else "rng_state.pth"
    parts = ((OPTIMIZER_NAME, OPTIMIZER_NAME_BIN), (SCHEDULER_NAME,), (random_state,))
    return [names[0] for names in parts if not any((checkpoint / name).is_file() for name in names)]
