"""The sidecar: what a run needs to resume and cannot derive from the model."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hf_sparse.recipe import Recipe
from hf_sparse.storage import hash_files, sha256, write_atomically

SIDECAR = "hf_sparse_state.safetensors"
FORMAT_VERSION = 3
# From this version on, errors of hidden states are normalized unless the recipe says otherwise.
NORMALIZED = 3
_MASKS = "masks"
_WEIGHTS = "weights"


@dataclass(frozen=True)
class SavedState:
    """A run after `step` of `total_steps` optimizer steps; `masks` as `Masks.pack` makes them.

    `extras` holds tensors of other parts of the run, by the name of the part and their own; `format_version`
    is that of the file it was read from. `weights` has the SHA-256 of each file of weights that lay beside
    it, by name; nothing in files of older releases.
    """

    recipe: Recipe
    step: int
    total_steps: int
    masks: Mapping[str, Tensor]
    extras: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    weights: Mapping[str, str] = field(default_factory=dict)


def write_state(directory: str | Path, state: SavedState) -> None:
    """Write the sidecar into a checkpoint or model directory, with the hashes of the weights in there."""
    parts = {_MASKS: state.masks, **state.extras}
    tensors = {f"{part}/{name}": value for part, held in parts.items() for name, value in held.items()}
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "recipe": json.dumps(state.recipe.to_dict()),
        "step": str(state.step),
        "total_steps": str(state.total_steps),
        _WEIGHTS: json.dumps(_hashes(Path(directory))),
    }
    metadata["digest"] = _digest(tensors, metadata)
    write_atomically(Path(directory) / SIDECAR, save(tensors, metadata))


def read_state(directory: str | Path) -> SavedState:
    """Read the sidecar.

    Raises `FileNotFoundError` if there is none, `ValueError` if it is damaged or of a newer format.
    """
    path = Path(directory) / SIDECAR
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, so the run in {directory} cannot be resumed with its masks; "
            "start a new run from that model instead: its zeros are locked by default"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); resume from an earlier checkpoint") from error
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version or 'none'}, this release reads up to {FORMAT_VERSION}; "
            "upgrade hf_sparse"
        )
    if metadata.pop("digest", None) != _digest(tensors, metadata):
        raise ValueError(
            f"{path} is damaged (it does not match its digest); resume from an earlier checkpoint"
        )
    recipe = Recipe.from_dict(_as_meant_then(json.loads(metadata["recipe"]), int(version)))
    parts: dict[str, dict[str, Tensor]] = {_MASKS: {}}
    for key, tensor in tensors.items():
        # Version 1 held nothing but masks, under the names of their weights.
        part, name = (_MASKS, key) if version == "1" else key.split("/", 1)
        parts.setdefault(part, {})[name] = tensor
    masks = parts.pop(_MASKS)
    steps = int(metadata["step"]), int(metadata["total_steps"])
    return SavedState(recipe, *steps, masks, parts, int(version), _read_hashes(metadata))


def weight_hashes(directory: str | Path) -> dict[str, str]:
    """Return the hashes of weights in the sidecar of a directory, which is not checked; see `SavedState`."""
    with safe_open(Path(directory) / SIDECAR, "pt") as file:
        return _read_hashes(file.metadata() or {})


def check_weights(sidecar: Path, weights: Mapping[str, str], find: Callable[[str], Path | None]) -> None:
    """Raise `ValueError` unless the weights beside a sidecar are those it was saved with.

    `find` returns where a file of the model lies, None if there is none of that name.
    """
    for name, known in weights.items():
        path = find(name)
        if path is None or sha256(path) != known:
            raise ValueError(
                f"{sidecar} was saved with other weights: {name} beside it is "
                f"{'missing' if path is None else 'another one'}; restore the files that were saved "
                "together, or delete the sidecar to take the weights without masks and ranges"
            )


def _read_hashes(metadata: Mapping[str, str]) -> dict[str, str]:
    hashes = json.loads(metadata.get(_WEIGHTS, "{}"))
    if not isinstance(hashes, dict):
        raise ValueError(f"{SIDECAR} has {hashes!r} for hashes; resume from an earlier checkpoint")
    return hashes


def _hashes(directory: Path) -> dict[str, str]:
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    return hash_files(directory, (name for name in names if name != SIDECAR))


def _as_meant_then(recipe: dict[str, Any], version: int) -> dict[str, Any]:
    """Write into a recipe what an older format left to a default that is another one now."""
    hidden = recipe.get("distillation", {}).get("hidden")
    if version < NORMALIZED and hidden is not None:
        hidden.setdefault("normalize", False)
    return recipe


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
