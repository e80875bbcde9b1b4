"""The sidecar: the state of a run that cannot be derived from its model, in a file beside the weights."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hf_sparse.atomic.files import hash_files, sha256, write_parts_atomically
from hf_sparse.readers import parse_json, shortened
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.recipe.saved import as_of_format

SIDECAR = "hf_sparse_state.safetensors"
FORMAT_VERSION = 4
# From this version on, the digest is of dtypes and shapes, too.
_SHAPED = 4
# The section with the ranges of quantized layers' inputs.
RANGES = "ranges"
_MASKS, _WEIGHTS = "masks", "weights"
# What safetensors calls the types of numbers.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class SavedState:
    """A run after `step` of `total_steps` optimizer steps; `masks` as `Masks.pack` returns them.

    `extras` holds other tensors by section (`ranges`, `remembered`, ...) and name; `format_version` is that
    of the file. `weights` has the SHA-256 of each file of weights beside it, by name; it is empty in files
    of older releases.
    """

    recipe: Recipe
    step: int
    total_steps: int
    masks: Mapping[str, Tensor]
    extras: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    weights: Mapping[str, str] = field(default_factory=dict)


def write_state(directory: str | Path, state: SavedState) -> None:
    """Write the sidecar into a checkpoint or model directory, with the hashes of the weights there.

    Raises `ValueError` for numbers of a type that the file does not hold.
    """
    sections = {_MASKS: state.masks, **state.extras}
    tensors = {
        f"{section}/{name}": value for section, held in sections.items() for name, value in held.items()
    }
    for name, value in tensors.items():
        if value.dtype not in _DTYPES:
            raise ValueError(
                f"{name} is a tensor of {value.dtype}, and {SIDECAR} holds {', '.join(map(str, _DTYPES))}; "
                "convert it before it is saved"
            )
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "recipe": json.dumps(state.recipe.to_dict()),
        "step": str(state.step),
        "total_steps": str(state.total_steps),
        _WEIGHTS: json.dumps(_hashes(Path(directory))),
    }
    metadata["digest"] = _digest(tensors, metadata)
    write_parts_atomically(Path(directory) / SIDECAR, _content(tensors, metadata))


def read_state(directory: str | Path) -> SavedState:
    """Read the sidecar of a directory.

    Raises `FileNotFoundError` if it is missing, `ValueError` if it is damaged or of a newer format.
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
        raise _damaged(path, error) from error
    version = metadata.get("format_version", "none")
    if not _is_count(version) or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version[:20]}, this release reads up to {FORMAT_VERSION}; "
            "upgrade hf_sparse"
        )
    if metadata.pop("digest", None) != _digest(tensors, metadata):
        raise _damaged(path, "it does not match its digest")
    try:
        return _understood(metadata, tensors)
    except ValueError as error:
        raise _damaged(path, error) from error


def _understood(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> SavedState:
    """Return the state in a file; raise `ValueError` for anything that `write_state` never writes."""
    version = int(metadata["format_version"])
    for name in ("step", "total_steps"):
        if not _is_count(metadata.get(name, "")):
            raise ValueError(f"{name} is {shortened(metadata.get(name))}")
    values = parse_json(metadata.get("recipe", ""), own=True)
    recipe = Recipe.from_dict(as_of_format(values, version))
    sections: dict[str, dict[str, Tensor]] = {_MASKS: {}}
    for key, tensor in tensors.items():
        # Version 1 held masks alone, under the names of their weights.
        section, _, name = (_MASKS, "", key) if version == 1 else key.partition("/")
        if section == _MASKS and (tensor.dtype != torch.uint8 or tensor.dim() != 1):
            raise ValueError(f"{key} is not a mask")
        if section == RANGES and not _is_range(tensor):
            raise ValueError(f"{key} is not a range of numbers")
        sections.setdefault(section, {})[name] = tensor
    masks = sections.pop(_MASKS)
    steps = int(metadata["step"]), int(metadata["total_steps"])
    return SavedState(recipe, *steps, masks, sections, version, _read_hashes(metadata))


def weight_hashes(directory: str | Path) -> dict[str, str]:
    """Return the hashes of weights in a sidecar, see `SavedState`, without checking the file."""
    with safe_open(Path(directory) / SIDECAR, "pt") as file:
        return _read_hashes(file.metadata() or {})


def check_weights(sidecar: Path, weights: Mapping[str, str], find: Callable[[str], Path | None]) -> None:
    """Raise `ValueError` unless the weights beside a sidecar are those it was saved with.

    `find` returns the path of a file of the model, None if it is missing.
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
    hashes = parse_json(metadata.get(_WEIGHTS, "{}"), own=True)
    if not isinstance(hashes, dict) or not all(isinstance(known, str) for known in hashes.values()):
        raise ValueError(f"{shortened(hashes)} are not hashes of weights")
    return hashes


def _hashes(directory: Path) -> dict[str, str]:
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    return hash_files(directory, (name for name in names if name != SIDECAR))


def _damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path} is damaged ({why}); resume from an earlier checkpoint")


def _is_count(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", text) is not None


def _is_range(tensor: Tensor) -> bool:
    """Return whether a tensor is (low, high), finite, with low at most high."""
    if not tensor.is_floating_point() or tensor.shape != (2,):
        return False
    low, high = tensor.tolist()
    return isfinite(low) and isfinite(high) and low <= high


def _content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Return the content of a safetensors file in parts, without a copy of all tensors."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    # Larger numbers first, so that all are aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        form = {"dtype": _DTYPES[tensors[name].dtype], "shape": list(tensors[name].shape)}
        header[name] = form | {"data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from (_bytes_of(tensors[name]) for name in names)


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    # A single number counts as contiguous whatever its stride, and only one of 1 can be seen as bytes.
    flat = flat if flat.stride() == (1,) else flat.clone(memory_format=torch.contiguous_format)
    # As bytes, since numpy lacks bfloat16.
    return flat.view(torch.uint8).numpy().data


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    shaped = int(metadata["format_version"]) >= _SHAPED
    for name in sorted(tensors):
        form = [name, str(tensors[name].dtype), *tensors[name].shape]
        digest.update((json.dumps(form) if shaped else name).encode())
        digest.update(_bytes_of(tensors[name]))
    return digest.hexdigest()
