"""A checkpoint as it was written: reading it, and the value that one layout after the other converts."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.saved_files import packed_file, saved_file, weight_files
from hf_sparse.readers import read_json

# Today's transformers ignores pruned_heads; the heads it lists have been put back by then.
_UNSAID = ("model_type", "pruned_heads")
# The Linear of a pooler, which checkpoints hold even if their class lacks one.
POOLER = ".pooler.dense"


@dataclass(frozen=True)
class State:
    """The tensors of a checkpoint by their keys, and its config.json."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def stock_config(self) -> PreTrainedConfig:
        """Return the configuration of transformers; raise `ValueError` for a model it does not know."""
        rest = {key: value for key, value in self.config.items() if key not in _UNSAID}
        try:
            return AutoConfig.for_model(self.config.get("model_type", ""), **rest)
        except Exception as error:
            raise ValueError(
                f"config.json is of no model that transformers knows ({first_line(error)}); correct it"
            ) from error


@dataclass(frozen=True)
class Grid:
    """256 codes from `low` up, each worth `scale * (code - zero_point)`, with floats as tensors.

    Scale and zero point are of one element for a whole tensor, or of one for each row.
    """

    scale: Tensor
    zero_point: Tensor
    low: int

    def fits(self, rows: int) -> bool:
        """Return whether there is one scale, or one for each of `rows`, and all are positive."""
        sizes = {self.scale.numel(), self.zero_point.numel()}
        return sizes <= {1, rows} and bool((self.scale.isfinite() & (self.scale > 0)).all())

    def round(self, values: Tensor) -> Tensor:
        """Return the nearest values that codes can represent."""
        shape = (-1, *[1] * (values.dim() - 1))
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        codes = ((values / scale).round() + zero_point).clamp(self.low, self.low + 255)
        return (codes - zero_point) * scale


@dataclass(frozen=True)
class Rounds:
    """The grids that a layer rounds to in every forward pass; None for tensors that it does not round."""

    weight: Grid | None = None
    inputs: Grid | None = None
    outputs: Grid | None = None


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint, with `notes` that say in one sentence each what was done.

    `as_written` turns a module of the stock model into one that computes as the library of the layout did,
    from the tensors it wrote and before any rounding. `rounded` holds the grids of each layer that rounds,
    None for a layer whose grids are not fully known. Keys are names of modules in the checkpoint.
    """

    state: State
    notes: tuple[str, ...]
    as_written: Mapping[str, Callable[[nn.Module], nn.Module]] = field(default_factory=dict)
    rounded: Mapping[str, Rounds | None] = field(default_factory=dict)


def read_state(name_or_path: str, **hub: Any) -> State:
    """Return the configuration and all tensors of a directory or a model on the Hub.

    `hub` holds `revision` and `token` for the Hub. Weights come from `model.safetensors` or
    `pytorch_model.bin`, whole or in shards. Pickles are restricted to tensors, so that none of their code
    runs. Raises `ValueError` for files that are damaged or hold anything else, `FileNotFoundError` if the
    weights are missing.
    """
    config = _read_config(name_or_path, **hub)
    if packed_file(name_or_path, **hub) is not None:
        raise ValueError(f"{name_or_path} is a packed directory of this package; load it with load_packed")
    tensors: dict[str, Tensor] = {}
    for file in weight_files(name_or_path, **hub):
        held = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
        if twice := sorted(tensors.keys() & held.keys()):
            raise ValueError(f"{file} holds {twice[0]} again, which another shard has; get the files again")
        tensors |= held
    return State(tensors, config)


def _read_config(name_or_path: str, **hub: Any) -> dict[str, Any]:
    file = saved_file(name_or_path, CONFIG_NAME, **hub)
    if file is None:
        at = f" at {hub['revision']}" if hub.get("revision") else ""
        raise ValueError(
            f"{name_or_path} lacks {CONFIG_NAME}{at}; name the directory of a model, or a Hub name"
        )
    return read_json(file, "JSON", "get the file again")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); get the file again") from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        # Files of torch before 1.6 are not zip archives and cannot be memory-mapped.
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is damaged or holds more than tensors, whose code would run; it is not opened, ask its "
            "author for safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{file} is damaged ({first_line(error)}); get the file again") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file} holds a {type(held).__name__}, no tensors by name; save a state_dict")
    for name, value in held.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{file} holds {name!r}, which is not a tensor; save model.state_dict() alone")
    return held


def some(count: int, what: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def listed(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, the name of its class if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
