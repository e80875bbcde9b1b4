"""The files of a checkpoint: a list with their hashes, and whether all that a run needs are there."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from transformers import TrainingArguments
from transformers.trainer import (
    FSDP_MODEL_NAME,
    OPTIMIZER_NAME,
    OPTIMIZER_NAME_BIN,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_sparse.atomic.files import hash_files, write_atomically
from hf_sparse.checkpoint.sidecar import SIDECAR, weight_hashes
from hf_sparse.readers import parse_json
from hf_sparse.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

MANIFEST = "hf_sparse_files.json"
FORMAT_VERSION = 1


class Resumable(Protocol):
    """A Trainer with a recipe, about to resume."""

    recipe: Recipe
    args: TrainingArguments
    accelerator: Accelerator
    is_deepspeed_enabled: bool


def write_manifest(directory: Path) -> None:
    """Write size and SHA-256 of every file of a checkpoint beside them.

    Hashes of weights are taken from the sidecar if it holds them.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    hashes = weight_hashes(directory) if SIDECAR in names else {}
    hashes = hashes | hash_files(directory, (name for name in names if name not in hashes))
    files = {name: {"size": (directory / name).stat().st_size, "sha256": hashes[name]} for name in names}
    text = json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=2)
    write_atomically(directory / MANIFEST, f"{text}\n".encode())


def check_manifest(directory: Path) -> None:
    """Compare the files of a checkpoint with its manifest, if there is one.

    Files that were added later are ignored. Raises `ValueError` if files are missing or have changed.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return
    files = _read(path)
    if faults := list(_faults(directory, files)):
        raise ValueError(
            f"{directory} is not as it was saved ({'; '.join(faults)}), so the resumed run would "
            f"differ; resume from another checkpoint, or delete {MANIFEST} in it to take it as it is"
        )


def check_checkpoint(checkpoint: Path, trainer: Resumable) -> None:
    """Raise `ValueError` if a path is not a checkpoint or its files have changed; warn of missing parts.

    Under FSDP also raise it if the weights are not in the form that Trainer reads.

    With an empty recipe changed files are a warning, since Trainer would go on.
    """
    if not checkpoint.is_dir():
        beside = sorted(
            path.name for path in checkpoint.parent.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()
        )
        raise ValueError(
            f"Can't find a valid checkpoint at {checkpoint}: no such directory; name one that is "
            f"there{f', such as {beside[-1]} beside it' if beside else ''}"
        )
    if not (checkpoint / TRAINER_STATE_NAME).is_file():
        raise ValueError(
            f"Can't find a valid checkpoint at {checkpoint}: it lacks {TRAINER_STATE_NAME}, like a saved "
            "model; resume from a checkpoint-N, or start a new run from that model"
        )
    try:
        check_manifest(checkpoint)
    except ValueError as error:
        if trainer.recipe != Recipe():
            raise
        logger.warning("%s", error)
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        _require_weights_of(checkpoint, str(plugin.state_dict_type))
    elif any(checkpoint.glob("pytorch_model_fsdp*")):
        raise ValueError(
            f"{checkpoint} was written under FSDP, and Trainer reads it under FSDP alone; resume with "
            "--fsdp, for one process by torchrun --nproc_per_node 1, or start a new run from its weights"
        )
    if not trainer.is_deepspeed_enabled and (parts := _missing(checkpoint, trainer.args)):
        logger.warning(
            "%s lacks %s: the run will differ from an uninterrupted one.",
            checkpoint,
            ", ".join(parts),
        )


def _faults(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    present = [name for name in files if (directory / name).is_file()]
    if missing := sorted(files.keys() - set(present)):
        yield f"without {', '.join(missing)}"
    sizes = {name: (directory / name).stat().st_size for name in present}
    equal = [name for name in present if sizes[name] == files[name]["size"]]
    hashes = hash_files(directory, equal)
    if changed := [name for name in present if hashes.get(name) != files[name]["sha256"]]:
        yield f"{', '.join(changed)} changed"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = parse_json(path.read_bytes(), own=True)
        version, files = content["format_version"], content["files"]
        if version == FORMAT_VERSION:
            for name, known in files.items():
                if Path(name).is_absolute() or ".." in Path(name).parts:
                    raise ValueError(f"{name} lies outside")
                known["size"], known["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a list of files ({error}); resume from another checkpoint, or delete it"
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this release reads {FORMAT_VERSION}; upgrade hf_sparse"
        )
    return files


def _missing(checkpoint: Path, args: TrainingArguments) -> list[str]:
    """Return the files of a training state that a checkpoint lacks."""
    random_state = f"rng_state_{args.process_index}.pth" if args.world_size > 1 else "rng_state.pth"
    # The last is a directory that FSDP fills with SHARDED_STATE_DICT.
    optimizer = (OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, "optimizer_0")
    parts = (optimizer, (SCHEDULER_NAME,), (random_state,))
    return [names[0] for names in parts if not any((checkpoint / name).exists() for name in names)]


def _require_weights_of(checkpoint: Path, kind: str) -> None:
    """Raise `ValueError` unless FSDP finds weights in a checkpoint for its kind of state dict."""
    homes = {"FULL_STATE_DICT": f"{FSDP_MODEL_NAME}.bin", "SHARDED_STATE_DICT": f"{FSDP_MODEL_NAME}_0"}
    asked = next((name for name in homes if name in kind), None)
    if asked is None or (checkpoint / homes[asked]).exists():
        return
    other = next((name for name, home in homes.items() if (checkpoint / home).exists()), None)
    way_out = (
        "it was written without FSDP, so resume without FSDP, or start a new run from its model"
        if other is None
        else f"resume with {other}, as it was written"
    )
    raise ValueError(
        f"{checkpoint} lacks {homes[asked]}, from which FSDP resumes with state_dict_type {asked}; {way_out}"
    )
