"""Quantized models as compressed-tensors directories, which stock transformers and vLLM load."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.carry_over import carry
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.checkpoint.configuration import read_config, saved_quantization
from hf_sparse.modules import base_prefix
from hf_sparse.quantization.quantized_layers import QuantizedLayer, quantized_layers, require_finite_tensors
from hf_sparse.savable import require_merged

METHOD = "compressed-tensors"
# compressed-tensors has signed zero points, hf_sparse unsigned ones.
_SHIFT = 128


def save_compressed(
    model: PreTrainedModel,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write a quantized model as a directory that `from_pretrained` loads with compressed-tensors installed.

    With quantized inputs a weight is stored as int8 (format `int-quantized`), else packed at its own number
    of bits (`pack-quantized`); scales are float32. The format lacks embeddings: quantized tables are stored
    as rounded floats. All other parameters are as `save_pretrained` writes them. Load the directory as the
    class it was saved as, or without the head. The files are read and compared before they take their place.

    Args:
        model: A model whose Linears are quantized, all in one way.
        directory: Where to write. An earlier directory of this format is replaced, with its tokenizer.
        tokenizer: Saved beside the model.
        carried: Other files to copy, by their relative paths (`checkpoint.carry_over.carried`).

    Raises:
        ValueError: The model is not quantized, layers differ in their scheme or are not Linears, weights are
            not finite, there are mixtures of experts, or the directory holds something else.
        ImportError: Weights are packed and the package compressed-tensors is missing.
    """
    require_merged(model)
    require_finite_tensors(model.named_parameters())
    quantized = quantized_layers(model)
    layers = {name: layer for name, layer in quantized.items() if not layer.embedding}
    scheme = _scheme(model, layers)
    packed = scheme["format"] == "pack-quantized"
    state = model.state_dict()
    for name, layer in layers.items():
        weight = f"{name}.weight"
        del state[weight]
        state |= {f"{name}.{key}": value for key, value in _tensors(layer, packed).items()}
    for name in quantized.keys() - layers.keys():
        weight = f"{name}.weight"
        state[weight] = quantized[name].weight().to(state[weight].dtype)
    with replacing_directory(Path(directory), lambda held: is_compressed(held, carried)) as staged:
        model.save_pretrained(staged, state_dict=state)
        _require_same(staged, state, set(state) - set(model.state_dict()))
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        carry(carried, staged)
        file = staged / CONFIG_NAME
        config = read_config(file)
        config["quantization_config"] = scheme
        write_atomically(file, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _require_same(directory: Path, state: Mapping[str, Tensor], needed: set[str]) -> None:
    """Raise `ValueError` unless files hold these tensors bit for bit, all `needed` ones among them.

    Some classes rename their weights on disk: a tensor under another name is recognized by its bytes.
    """
    found: dict[str, Tensor] = {}
    for file in directory.glob("model*.safetensors"):
        found |= load_file(file)
    elsewhere = Counter(_bytes(value) for name, value in found.items() if name not in state)
    wrong = [name for name, value in found.items() if name in state and _bytes(value) != _bytes(state[name])]
    # Of tied tensors, which are not `needed`, a file holds one.
    renamed = [name for name in needed if name not in found]
    wrong += [name for name in renamed if not elsewhere[_bytes(state[name])]]
    if wrong or len(renamed) > elsewhere.total():
        raise ValueError(
            f"{(wrong or renamed)[0]} does not come back as it was written, and nothing was kept; write a "
            "packed file instead (hf-sparse pack --format packed)"
        )


def _bytes(tensor: Tensor) -> tuple[Any, ...]:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tensor.shape, sha256(content).digest()


def _scheme(model: nn.Module, layers: Mapping[str, QuantizedLayer]) -> dict[str, Any]:
    """Return the `quantization_config` of a config.json."""
    if not layers:
        raise ValueError(
            "no layer of the model is quantized; train with a quantization recipe, calibrate it (hf-sparse "
            "quantize), or write a packed file (hf-sparse pack --format packed)"
        )
    transposed = [name for name, layer in layers.items() if layer.transposed]
    if transposed:
        raise ValueError(
            f"{transposed[0]} is a Conv1D, and compressed-tensors has Linears only; write a packed file "
            "(hf-sparse pack --format packed) or export to ONNX instead"
        )
    experts = [
        name for name, parameter in model.named_parameters() if parameter.dim() == 3 and "expert" in name
    ]
    if experts:
        raise ValueError(
            f"{experts[0]} holds weights of experts, which transformers takes as quantized in this format; "
            "write a packed file instead (hf-sparse pack --format packed)"
        )
    kinds = {(str(layer.weights), layer.activations) for layer in layers.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"layers are quantized in {len(kinds)} ways, {' and '.join(map(' with '.join, sorted(kinds)))}; "
            "quantize all of them in one way, or export to ONNX"
        )
    layer = next(iter(layers.values()))
    group = {
        "weights": _arguments(layer.weights.bits, layer.weights.granularity, layer.weights.group),
        "input_activations": {
            "uint8_per_tensor": _arguments(8, "tensor", symmetric=False),
            "int8_per_token": _arguments(8, "token", dynamic=True),
            "none": None,
        }[layer.activations],
        "output_activations": None,
        "targets": ["Linear"],
    }
    return {
        "quant_method": METHOD,
        "format": "pack-quantized" if layer.activations == "none" else "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": _ignored(model, layers),
    }


def _arguments(
    bits: int, strategy: str, group: int | None = None, symmetric: bool = True, dynamic: bool = False
) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "strategy": strategy,
        "group_size": group,
        "symmetric": symmetric,
        "dynamic": dynamic,
    }


def _ignored(model: nn.Module, layers: Mapping[str, QuantizedLayer]) -> list[str]:
    """Return names of the Linears that are not quantized, for `ignore` in the configuration.

    Those in the base model match with and without its prefix, so the directory loads without the head, too.
    """
    prefix = base_prefix(model)
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in layers
    ]
    if not prefix:
        return names
    inside = f"{prefix}."
    optional = f"re:(?:{re.escape(inside)})?"
    return [
        f"{optional}{re.escape(name.removeprefix(inside))}$" if name.startswith(inside) else name
        for name in names
    ]


def _tensors(layer: QuantizedLayer, packed: bool) -> dict[str, Tensor]:
    """Return the tensors of one layer by the names that the format gives them."""
    scales = layer.scales.flatten() if layer.weights.granularity == "tensor" else layer.scales
    tensors = {"weight_scale": scales}
    if packed:
        from compressed_tensors.compressors import pack_to_int32

        tensors["weight_packed"] = pack_to_int32(layer.codes, layer.weights.bits)
        tensors["weight_shape"] = torch.tensor(layer.codes.shape)
    else:
        tensors["weight"] = layer.codes
    if layer.input_scale is not None and layer.input_zero_point is not None:
        tensors["input_scale"] = layer.input_scale.reshape(1)
        tensors["input_zero_point"] = (layer.input_zero_point - _SHIFT).to(torch.int8).reshape(1)
    return tensors


def is_compressed(directory: Path, carried: Mapping[str, Path] = MappingProxyType({})) -> bool:
    """Return whether a directory holds a model of this format and, beside it, only `carried` files."""
    file = directory / CONFIG_NAME
    if not file.is_file():
        return False
    held = saved_quantization(file) or {}
    return held.get("quant_method") == METHOD and holds_only(
        directory, "model*.safetensors*", carried=carried
    )
