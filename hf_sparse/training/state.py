"""The sidecar: what a run needs to resume and cannot derive from the model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hf_sparse.recipe import Recipe
from hf_sparse.training.files import write_atomically

SIDECAR = "hf_sparse_state.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SavedState:
    """A run after `step` of `total_steps` optimizer steps; `masks` as `Masks.pack` makes them."""

    recipe: Recipe
    step: int
    total_steps: int
    masks: Mapping[str, Tensor]


def write_state(directory: str | Path, state: SavedState) -> None:
    """Write the sidecar into a checkpoint or model directory."""
    masks = dict(state.masks)
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "recipe": json.dumps(state.recipe.to_dict()),
        "step": str(state.step),
        "total_steps": str(state.total_steps),
    }
    metadata["digest"] = _digest(masks, metadata)
    write_atomically(Path(directory) / SIDECAR, save(masks, metadata))


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
            masks = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); resume from an earlier checkpoint") from error
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version or 'none'}, this release reads up to {FORMAT_VERSION}; "
            "upgrade hf_sparse"
        )
    if metadata.pop("digest", None) != _digest(masks, metadata):
        raise ValueError(
            f"{path} is damaged (it does not match its digest); resume from an earlier checkpoint"
        )
    recipe = Recipe.from_dict(json.loads(metadata["recipe"]))
    return SavedState(recipe, int(metadata["step"]), int(metadata["total_steps"]), masks)


def _digest(masks: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(masks):
        digest.update(name.encode())
        digest.update(masks[name].numpy().tobytes())
    return digest.hexdigest()
