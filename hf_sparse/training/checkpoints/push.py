"""Copies of checkpoints to push, without secrets, training arguments and paths of this machine."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import get_token
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_sparse.atomic.files import copy_atomically, leaves, write_atomically
from hf_sparse.checkpoint.run_record import copy_public_record
from hf_sparse.checkpoint.sidecar import SIDECAR
from hf_sparse.checkpoint.variants import TENSOR_FILES
from hf_sparse.hub.secrets import find_secret, pieces_of, secrets_in_use
from hf_sparse.readers import read_json
from hf_sparse.training.checkpoints.manifest import MANIFEST

logger = logging.getLogger(__name__)

_IGNORED = ".gitignore"
# Characters with a meaning in .gitignore.
_SPECIAL, _QUOTED = re.compile(r"([\\*?\[\]!# ])"), r"\\\1"


def copy_clean(checkpoint: Path, home: Path) -> Path:
    """Copy the files of a checkpoint that may be pushed to a directory of the same name in `home`; return it.

    Left out are the training arguments, a pickle that holds the token, and, with a warning, links out of the
    directory and files with a secret. Files are hard links if the file system allows it.
    """
    clean = home / checkpoint.name
    shutil.rmtree(clean, ignore_errors=True)
    kept_back = set(_kept_back(checkpoint, checkpoint.rglob("*")))

    def ignored(folder: str, names: list[str]) -> list[str]:
        # The manifest lists files as they are here.
        own = {TRAINING_ARGS_NAME, MANIFEST}
        return [name for name in names if name in own or Path(folder, name) in kept_back]

    shutil.copytree(checkpoint, clean, copy_function=_link, ignore=ignored)
    copy_public_record(checkpoint, clean)
    _name_best(clean / TRAINER_STATE_NAME)
    return clean


def copy_beside_weights(checkpoint: Path, directory: Path) -> None:
    """Copy sidecar and record of a checkpoint to a directory that Trainer pushes, and exclude its pickle."""
    if (checkpoint / SIDECAR).is_file():
        copy_atomically(checkpoint / SIDECAR, directory / SIDECAR)
    copy_public_record(checkpoint, directory)
    _name_best(directory / TRAINER_STATE_NAME)
    ignore_private(directory)


def ignore_private(directory: Path) -> None:
    """Add private files of a directory to its .gitignore, which the Hub's client leaves out of a commit.

    These are the pickle of training arguments, which Trainer writes at the last moment, and, with a warning,
    links out of the directory and files with a secret.
    """
    ignored = directory / _IGNORED
    lines = ignored.read_text(encoding="utf-8").splitlines() if ignored.is_file() else []
    # Trainer leaves these out itself.
    unsent = (f"{PREFIX_CHECKPOINT_DIR}-", "_", _IGNORED)
    sent = [path for path in directory.iterdir() if not path.name.startswith(unsent)]
    within = [path for folder in sent if not folder.is_symlink() for path in folder.rglob("*")]
    names = [path.relative_to(directory).as_posix() for path in _kept_back(directory, [*sent, *within])]
    wanted = [TRAINING_ARGS_NAME, *(f"/{_SPECIAL.sub(_QUOTED, name)}" for name in sorted(names))]
    if new := [line for line in wanted if line not in lines]:
        write_atomically(ignored, "\n".join([*lines, *new, ""]).encode())


def _kept_back(directory: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that must not be pushed, with a warning for each."""
    secrets = secrets_in_use(get_token())
    for path in paths:
        reason = None
        if leaves(path, directory):
            reason = "leads out of the directory"
        elif path.is_file() and path.suffix not in TENSOR_FILES:
            found = find_secret(pieces_of(path), secrets)
            reason = found and f"holds {found}"
        if reason is not None:
            logger.warning("%s %s, so it is not pushed with the model", path, reason)
            yield path


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
