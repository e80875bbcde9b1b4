"""What of a checkpoint may be handed on: neither tokens nor paths of the machine it was made on."""

import json
import os
import shutil
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from hf_sparse.reading import read_json
from hf_sparse.storage import write_atomically
from hf_sparse.training.manifest import MANIFEST
from hf_sparse.training.record import copy_public_record
from hf_sparse.training.state import SIDECAR

_IGNORED = ".gitignore"


def copy_clean(checkpoint: Path, home: Path) -> Path:
    """Make a directory of the same name in `home` with what may be handed on of a checkpoint; return it.

    It has no training arguments, which are a pickle with the token in it. Files are links where there can be
    any.
    """
    clean = home / checkpoint.name
    shutil.rmtree(clean, ignore_errors=True)
    # The manifest lists files as they are here.
    left_out = shutil.ignore_patterns(TRAINING_ARGS_NAME, MANIFEST)
    shutil.copytree(checkpoint, clean, copy_function=_link, ignore=left_out)
    copy_public_record(checkpoint, clean)
    _name_best(clean / TRAINER_STATE_NAME)
    return clean


def copy_beside_weights(checkpoint: Path, directory: Path) -> None:
    """Copy what Trainer does not know of a checkpoint to a directory it pushes, and keep its pickle out."""
    if (checkpoint / SIDECAR).is_file():
        shutil.copy(checkpoint / SIDECAR, directory)
    copy_public_record(checkpoint, directory)
    _name_best(directory / TRAINER_STATE_NAME)
    ignore_arguments(directory)


def ignore_arguments(directory: Path) -> None:
    """Tell the Hub to leave the pickle of training arguments out of what is pushed of a directory.

    Trainer writes it there at the last moment; what .gitignore names is left out of a commit.
    """
    ignored = directory / _IGNORED
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.is_file() else []
    if TRAINING_ARGS_NAME not in lines:
        write_atomically(ignored, "\n".join([*lines, TRAINING_ARGS_NAME, ""]).encode())


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _name_best(path: Path) -> None:
    """Replace the path of the best checkpoint by its name."""
    if not path.is_file():
        return
    state = read_json(path, "state of a Trainer", "resume from a checkpoint that is whole")
    if best := state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = Path(best).name
        write_atomically(path, (json.dumps(state, indent=2, sort_keys=True) + "\n").encode())
