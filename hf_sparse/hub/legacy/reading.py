"""The tensors of a checkpoint as they were written, whatever their names and shapes."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.saved_files import packed_file, saved_file, weight_files
from hf_sparse.hub.legacy.state import State, first_line
from hf_sparse.reading import read_json


def read_state(name_or_path: str, **hub: Any) -> State:
    """Read the configuration and all tensors of a directory or a model on the Hub.

    `hub` holds `revision` and `token` for the latter. Weights are those of `model.safetensors` or
    `pytorch_model.bin`, whole or in shards. Pickles are read as tensors alone, so that no code of theirs
    runs. Raises `ValueError` for files that are damaged or hold anything else, `FileNotFoundError` if there
    are none.
    """
    config = _read_config(name_or_path, **hub)
    if packed_file(name_or_path, **hub) is not None:
        raise ValueError(f"{name_or_path} is a packed directory of this package; load it with load_packed")
    tensors: dict[str, Tensor] = {}
    for file in weight_files(name_or_path, **hub):
        held = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
        if twice := sorted(tensors.keys() & held.keys()):
            raise ValueError(f"{file} holds {twice[0]} again, which another shard has; get the files anew")
        tensors |= held
    return State(tensors, config)


def _read_config(name_or_path: str, **hub: Any) -> dict[str, Any]:
    file = saved_file(name_or_path, CONFIG_NAME, **hub)
    if file is None:
        at = f" at {hub['revision']}" if hub.get("revision") else ""
        raise ValueError(
            f"{name_or_path} has no {CONFIG_NAME}{at}; name the directory of a model, or a Hub name"
        )
    return read_json(file, "JSON", "get the file anew")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); get the file anew") from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        # torch before 1.6 wrote no zip files, which cannot be mapped.
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is damaged or holds more than tensors, whose code would run; it is not opened, ask its "
            "author for safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged ({first_line(error)}); get the file anew") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file} holds a {type(held).__name__}, no tensors by name; save a state_dict")
    for name, value in held.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{file} holds {name!r}, which is no tensor; save model.state_dict() alone")
    return held
