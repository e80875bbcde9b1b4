"""Models in one small file, `packed.safetensors`, beside the configuration and in place of the weights."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.atomic.file_group import STAGING, FileGroup, recover_files, staged_files
from hf_sparse.checkpoint.configuration import described_by, require_plausible
from hf_sparse.checkpoint.packed.entries import (
    pack_layer,
    pack_tensor,
    quantize_again,
    quantized_entries,
    unpack,
)
from hf_sparse.checkpoint.packed.packed_file import (
    DTYPES,
    METHOD,
    PACKED,
    Entry,
    damaged,
    read_packed,
    write_packed,
)
from hf_sparse.checkpoint.packed.undrawn import Undrawn
from hf_sparse.checkpoint.packed.validation import (
    compare,
    compare_layers,
    require_same,
    shapes_of,
    tensors_of,
)
from hf_sparse.checkpoint.saved_files import packed_file
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes
from hf_sparse.quantization.convert import as_quantized
from hf_sparse.quantization.quantized_layers import quantized_layers, require_finite_tensors
from hf_sparse.savable import require_merged
from hf_sparse.sparsity.numpy_ops import parallel_map
from hf_sparse.targets import find_targets

_WEIGHT = ".weight"
# The file is absent while its configuration is replaced, which readers wait for.
_FILES = FileGroup("packed-", marker=PACKED, order=lambda name: (name == PACKED, name))


def save_packed(
    model: PreTrainedModel,
    directory: str | Path,
    tokenizer: Tokenizer | None = None,
    *,
    dequantize: bool = False,
) -> Sizes:
    """Write a model, quantized or not, with its configuration into a directory.

    Quantized weights are stored as codes and scales, all other tensors bit for bit, tied tensors once. The
    file is read and compared before it takes its place.

    Args:
        model: A model of a class of transformers.
        directory: Where to write; other files there stay.
        tokenizer: A tokenizer to write beside the model.
        dequantize: Let the model be loaded as a plain one with the rounded weights, to train it further.

    Returns:
        The sizes of the model and its file, in bytes.

    Raises:
        ValueError: `load_packed` could not restore the model, weights are not finite, or a layer that needs
            the range of its input has seen no data.
    """
    require_merged(model)
    kind, directory = type(model), Path(directory)
    if getattr(transformers, kind.__name__, None) is not kind:
        raise ValueError(
            f"{kind.__name__} is not a class of transformers, and no other can be loaded; pack a model of one"
        )
    # A model without an encoder is refused before anything is written.
    find_targets(model)
    require_finite_tensors(model.named_parameters())
    layers = quantized_layers(model)
    state, ties = tensors_of(model)
    if shapes_of(state, ties) != shapes_of(*tensors_of(_build(kind, model.config, "meta"))):
        raise ValueError(
            f"the tensors of this {kind.__name__}, their shapes or which of them are tied are not those that "
            "its configuration says; change the configuration"
        )
    for name in ties:
        if state[name].dtype not in DTYPES.values():
            raise ValueError(f"{name} is {state[name].dtype}, which cannot be packed; cast it before")
    for name in layers:
        if len(ties.get(name + _WEIGHT, ())) != 1:
            raise ValueError(
                f"the weight of {name} is tied to another one, so it cannot be quantized; exclude it"
            )

    def pack(name: str) -> tuple[Entry, bytes]:
        layer = layers.get(name.removesuffix(_WEIGHT)) if name.endswith(_WEIGHT) else None
        if layer is None:
            return pack_tensor(name, state[name])
        module = as_quantized(model.get_submodule(name.removesuffix(_WEIGHT)))
        known = layer.input_scale is not None
        ends = (module.input_low.item(), module.input_high.item()) if known else None
        return pack_layer(name, state[name], layer, module.quantization.observer, ends)

    packed = parallel_map(pack, ties)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [kind.__name__], model.dtype
    config.quantization_config = {"quant_method": METHOD} | ({"dequantize": True} if dequantize else {})
    with staged_files(directory, _FILES) as beside:
        config.save_pretrained(beside)
        if model.can_generate():
            model.generation_config.save_pretrained(beside)
        if tokenizer is not None:
            tokenizer.save_pretrained(beside)
        write_packed(beside / PACKED, packed)
        opened = open_packed(beside)
        require_same(opened.pairs, {entry.name: entry for entry, _ in packed}, model)
    return measure_sizes(model, directory)


def load_packed(
    name_or_path: str | Path,
    dequantize: bool | None = None,
    *,
    subfolder: str = "",
    revision: str | None = None,
    **config_changes: Any,
) -> PreTrainedModel:
    """Restore the model that `save_packed` wrote into a directory.

    Args:
        name_or_path: A directory or a Hub name.
        dequantize: Whether to return a plain model with the rounded weights; otherwise quantized layers round
            weights and inputs as before, with fixed ranges. By default as `save_packed` was told.
        subfolder: The folder of the file within the directory or the repository.
        revision: Branch, tag or commit on the Hub.
        config_changes: Attributes of the configuration, such as `attn_implementation`.

    Returns:
        A model of the class that the configuration names, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: The packed file is missing.
        ValueError: The file is damaged, of a newer format, or of another model than the configuration
            describes.
    """
    directory = _directory(str(name_or_path), subfolder, revision)
    opened = open_packed(directory, **config_changes)
    tensors = restored(opened.pairs, opened.path)
    model = opened.build("cpu")
    everything = {name: tensors[first] for first, tied in opened.ties.items() for name in tied}
    model.load_state_dict(everything, assign=True)
    finish(model, directory)
    if not (opened.dequantize if dequantize is None else dequantize):
        quantize_again(model, quantized_entries(opened.entries))
    return model


def _directory(name_or_path: str, subfolder: str, revision: str | None) -> Path:
    """Return the local directory of the files, fetched if they are on the Hub."""
    here = Path(name_or_path) / subfolder
    recover_directory(Path(name_or_path))
    if Path(name_or_path).is_dir():
        return here
    file = packed_file(name_or_path, subfolder=subfolder, revision=revision)
    # Opening a file there raises the error.
    return here if file is None else file.parent


@dataclass(frozen=True, eq=False)
class OpenedPacked:
    """A packed file whose index matches the configuration beside it; its tensors are not decoded yet.

    `pairs` holds entries and their bytes by the names of tensors, `ties` all names of each tensor;
    `dequantize` is what `save_packed` was told.
    """

    path: Path
    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    pairs: Mapping[str, tuple[Entry, memoryview]]
    ties: Mapping[str, list[str]]
    dequantize: bool

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: entry for name, (entry, _) in self.pairs.items()}

    def build(self, device: str) -> PreTrainedModel:
        """Return the model with uninitialized weights."""
        return _build(self.kind, self.config, device)


def open_packed(directory: str | Path, **config_changes: Any) -> OpenedPacked:
    """Open what `save_packed` wrote into a directory; raises as `load_packed` does."""
    path = Path(directory) / PACKED
    writers, until = Path(directory) / STAGING, time.monotonic() + 5.0
    recover_files(Path(directory), _FILES)
    while not path.is_file() and any(writers.glob(f"{_FILES.kind}*")) and time.monotonic() < until:
        time.sleep(0.01)
        recover_files(Path(directory), _FILES)
    pairs = {entry.name: (entry, content) for entry, content in read_packed(path)}
    described = Path(directory) / CONFIG_NAME
    require_plausible(described)
    with described_by(described):
        config, unused = AutoConfig.from_pretrained(
            directory, trust_remote_code=False, return_unused_kwargs=True, **config_changes
        )
    held = getattr(config, "quantization_config", None) or {}
    if held.get("quant_method") != METHOD:
        raise ValueError(
            f"{path} is there, and config.json beside it says nothing of it; if other weights were saved "
            "there since, load those with from_pretrained, else restore the config.json that was written "
            "with the file"
        )
    if refused := unused.keys() | config_changes.keys() & {"dtype"}:
        raise ValueError(
            f"{', '.join(sorted(refused))} cannot be chosen when a packed model is loaded: it comes in the "
            "dtypes of the file, on the CPU; change it afterwards with model.to"
        )
    kind = _kind(config, path)
    config.quantization_config = None
    with described_by(described):
        skeleton = _build(kind, config, "meta")
    planned, ties = tensors_of(skeleton)
    opened = OpenedPacked(path, kind, config, pairs, ties, bool(held.get("dequantize")))
    compare(opened.entries, planned, ties, path)
    compare_layers(opened.entries, skeleton, path)
    return opened


def finish(model: PreTrainedModel, directory: str | Path) -> None:
    """Tie weights, set evaluation mode and the generation settings of a model that has its weights."""
    model.tie_weights()
    model.eval()
    if model.can_generate() and (Path(directory) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory)


def restored(pairs: Mapping[str, tuple[Entry, memoryview]], path: Path) -> dict[str, Tensor]:
    """Return the decoded tensors of entries; raise `ValueError` naming one whose bytes are damaged."""

    def restore(name: str) -> Tensor:
        try:
            return unpack(*pairs[name])
        except ValueError as error:
            raise damaged(path, f"{name}: {error}") from error

    # The longest first, so that threads end together.
    names = sorted(pairs, key=lambda name: -pairs[name][0].length)
    return dict(zip(names, parallel_map(restore, names), strict=True))


def _kind(config: PreTrainedConfig, path: Path) -> type[PreTrainedModel]:
    name = config.architectures[0] if config.architectures else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if (
        isinstance(kind, type)
        and issubclass(kind, PreTrainedModel)
        and kind.config_class is not None
        and isinstance(config, kind.config_class)
    ):
        return kind
    raise ValueError(
        f"config.json beside {path} names {name} with a {type(config).__name__}, which is not a class of "
        "transformers with its configuration; restore the config.json that was written with it"
    )


def _build(kind: type[PreTrainedModel], config: PreTrainedConfig, device: str) -> PreTrainedModel:
    """Return a new model with uninitialized weights."""
    with torch.device(device), Undrawn():
        model = kind(copy.deepcopy(config))
    # transformers does this where it draws weights.
    model.tie_weights()
    return model
