"""Models in one small file: `packed.safetensors` beside the configuration, in place of the weights."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from hf_sparse.checkpoint.comparing import (
    compare,
    compare_layers,
    compare_names,
    compare_tensor,
    require_same,
)
from hf_sparse.checkpoint.configuration import described_by, require_plausible
from hf_sparse.checkpoint.container import DTYPES, PACKED, Entry, damaged, read_packed, write_packed
from hf_sparse.checkpoint.directories import moved_into
from hf_sparse.checkpoint.entries import pack_layer, pack_tensor, scheme_of, unpack
from hf_sparse.checkpoint.quantizer import METHOD
from hf_sparse.checkpoint.saved_files import packed_file
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes
from hf_sparse.checkpoint.undrawn import Undrawn
from hf_sparse.quantization.convert import attach
from hf_sparse.quantization.layers import quantized_layers, require_finite
from hf_sparse.quantization.linear import Phase
from hf_sparse.quantization.weights import WeightScheme
from hf_sparse.sparsity.parallel import parallel_map
from hf_sparse.suitable import require_merged
from hf_sparse.targets import Target, find_targets

_WEIGHT = ".weight"


def save_packed(model: PreTrainedModel, directory: str | Path, tokenizer: Tokenizer | None = None) -> Sizes:
    """Write a model, quantized or not, with its configuration into a directory; return its sizes.

    Quantized weights are stored as codes and scales, all other tensors bit for bit, tied ones once. What was
    written is read and compared before it takes its place. With `tokenizer`, its files are written too.
    Raises `ValueError` for models that `load_packed` could not restore, weights that are not finite, and
    layers that have seen no data.
    """
    require_merged(model)
    kind, directory = type(model), Path(directory)
    if getattr(transformers, kind.__name__, None) is not kind:
        raise ValueError(
            f"{kind.__name__} is no class of transformers, and no other can be loaded; pack a model of one"
        )
    # What has no encoder is refused before anything is written.
    find_targets(model)
    require_finite(model.named_parameters())
    layers = quantized_layers(model)
    state, ties = _tensors(model)
    if _shapes(state, ties) != _shapes(*_tensors(_build(kind, model.config, "meta"))):
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
        module = model.get_submodule(name.removesuffix(_WEIGHT))
        known = layer.input_scale is not None
        ends = (module.input_low.item(), module.input_high.item()) if known else None
        return pack_layer(name, state[name], layer, module.quantization.observer, ends)

    packed = parallel_map(pack, ties)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [kind.__name__], model.dtype
    config.quantization_config = {"quant_method": METHOD}
    with moved_into(directory) as beside:
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
    dequantize: bool = False,
    *,
    subfolder: str = "",
    revision: str | None = None,
    **config_changes: Any,
) -> PreTrainedModel:
    """Restore the model that `save_packed` wrote into a directory, in evaluation mode on the CPU.

    A name that is no directory is one of the Hub, at a `revision`; `subfolder` is where the file lies within
    either. The model is of the class of transformers that its configuration names; `config_changes` are
    attributes of that, such as `attn_implementation`. What was quantized rounds weights and inputs as before,
    its ranges fixed; with `dequantize` it is a plain model with the weights that the codes stand for. Raises
    `FileNotFoundError` if there is no file, `ValueError` if it is damaged, of a newer format or of another
    model than the configuration describes.
    """
    directory = _directory(str(name_or_path), subfolder, revision)
    opened = open_packed(directory, **config_changes)
    tensors = restored(opened.pairs, opened.path)
    model = opened.build("cpu")
    everything = {name: tensors[first] for first, tied in opened.ties.items() for name in tied}
    model.load_state_dict(everything, assign=True)
    finish(model, directory)
    if not dequantize:
        quantize_again(model, _quantized(opened.entries))
    return model


def _directory(name_or_path: str, subfolder: str, revision: str | None) -> Path:
    """Return where the files lie, those of the Hub once they have been fetched."""
    here = Path(name_or_path) / subfolder
    if Path(name_or_path).is_dir():
        return here
    file = packed_file(name_or_path, subfolder=subfolder, revision=revision)
    # Which says that nothing is there.
    return here if file is None else file.parent


@dataclass(frozen=True, eq=False)
class OpenedPacked:
    """A packed file that was compared with the model of the configuration beside it, nothing of it decoded.

    `pairs` are entries with their contents by the names of their tensors, `ties` all names of each.
    """

    path: Path
    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    pairs: Mapping[str, tuple[Entry, memoryview]]
    ties: Mapping[str, list[str]]

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: entry for name, (entry, _) in self.pairs.items()}

    def build(self, device: str) -> PreTrainedModel:
        """Return the model with weights that are yet to come."""
        return _build(self.kind, self.config, device)


def open_packed(directory: str | Path, **config_changes: Any) -> OpenedPacked:
    """Open what `save_packed` wrote into a directory; raises as `load_packed` does."""
    path = Path(directory) / PACKED
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
            "with it"
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
    planned, ties = _tensors(skeleton)
    opened = OpenedPacked(path, kind, config, pairs, ties)
    compare(opened.entries, planned, ties, path)
    compare_layers(opened.entries, skeleton, path)
    return opened


def finish(model: PreTrainedModel, directory: str | Path) -> None:
    """Do what is left once a model has its weights."""
    model.tie_weights()
    model.eval()
    if model.can_generate() and (Path(directory) / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory)


def unpack_for(model: PreTrainedModel, file: str | Path) -> tuple[dict[str, Tensor], dict[str, Entry]]:
    """Return what a packed file holds for a model, which may have another head, by the names in the model.

    Tensors as its weights, and the entries of those that are quantized. Raises as `load_packed` does.
    """
    path, planned = Path(file), model.state_dict()
    prefix = f"{model.base_model_prefix}."
    pairs, left_over = {}, []
    for entry, content in read_packed(path):
        name = entry.name
        for candidate in (name, name.removeprefix(prefix), prefix + name):
            if candidate in planned:
                pairs[candidate] = entry, content
                break
        else:
            left_over.append(name)
    compare_names(pairs, left_over, model, path)
    entries = {name: entry for name, (entry, _) in pairs.items()}
    for name, entry in entries.items():
        compare_tensor(name, entry, planned[name], path)
    compare_layers(entries, model, path)
    return restored(pairs, path), _quantized(entries)


def restored(pairs: Mapping[str, tuple[Entry, memoryview]], path: Path) -> dict[str, Tensor]:
    """Return the tensors of entries; raise `ValueError` naming one whose content is damaged."""

    def restore(name: str) -> Tensor:
        try:
            return unpack(*pairs[name])
        except ValueError as error:
            raise damaged(path, f"{name}: {error}") from error

    # The longest first, so that threads end together.
    names = sorted(pairs, key=lambda name: -pairs[name][0].length)
    return dict(zip(names, parallel_map(restore, names), strict=True))


def _quantized(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    return {name: entry for name, entry in entries.items() if entry.quantization}


def _kind(config: PreTrainedConfig, path: Path) -> type[PreTrainedModel]:
    name = (config.architectures or [None])[0]
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    fits = isinstance(kind, type) and issubclass(kind, PreTrainedModel) and kind.config_class is not None
    if not fits or not isinstance(config, kind.config_class):
        raise ValueError(
            f"config.json beside {path} names {name} with a {type(config).__name__}, which is no class of "
            "transformers with its configuration; restore the config.json that was written with it"
        )
    return kind


def _build(kind: type[PreTrainedModel], config: PreTrainedConfig, device: str) -> PreTrainedModel:
    """Make a model whose weights are yet to come."""
    with torch.device(device), Undrawn():
        model = kind(copy.deepcopy(config))
    # Otherwise done where weights are drawn.
    model.tie_weights()
    return model


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors of a model and, by the first name of each, all its names."""
    state, names = model.state_dict(keep_vars=True), {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return state, {tied[0]: tied for tied in names.values()}


def _shapes(
    state: Mapping[str, Tensor], ties: Mapping[str, list[str]]
) -> dict[str, tuple[torch.Size, list[str]]]:
    return {name: (state[name].shape, tied) for name, tied in ties.items()}


def quantize_again(model: PreTrainedModel, layers: Mapping[str, Entry]) -> None:
    """Quantize the layers of a loaded model, by the names of their weights, as they were."""
    phase = Phase(observing=False)
    alike: dict[tuple[WeightScheme, str, str], list[Target]] = {}
    for name, entry in layers.items():
        module, layer = model.get_submodule(name.removesuffix(_WEIGHT)), entry.quantization
        target = Target(name, module, transposed=layer.transposed)
        # The model may have been loaded in another type than the file's.
        scheme = scheme_of(entry).suiting(target.weight.detach())
        key = (scheme, layer.activations, layer.observer)
        alike.setdefault(key, []).append(target)
    for (weights, activations, observer), targets in alike.items():
        parts = attach(targets, weights, activations, observer, phase)
        for target in targets:
            if (ends := layers[target.name].quantization.input_range) is not None:
                target.module.input_low.fill_(ends[0])
                target.module.input_high.fill_(ends[1])
                parts[target.name.removesuffix(_WEIGHT)].seen = True
