"""Measure the weights of a model: their zeros, their bits, their files."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CompressedTensorsConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.compressed_tensors import METHOD as COMPRESSED
from hf_sparse.checkpoint.configuration import method_of, saved_quantization
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.packed_file import METHOD as PACKED
from hf_sparse.checkpoint.saved_files import packed_file, weight_bytes
from hf_sparse.checkpoint.sizes import Sizes, measure_sizes
from hf_sparse.checkpoint.sparsity_record import describe_lost, lost_zeros, read_sparsity_record
from hf_sparse.hub.card.card_data import Files, Quantization, Zeros
from hf_sparse.quantization.quantized_layers import QuantizedLayer, quantized_layers
from hf_sparse.runs.run import SavedRun
from hf_sparse.sparsity.inspection import inspect_weights
from hf_sparse.targets import Targets, find_targets

PACKED_FOLDER = "packed"
_FORMS = {None: "plain", COMPRESSED: "compressed-tensors", PACKED: "packed"}
# Schemes of inputs in compressed-tensors by (strategy, symmetric, dynamic).
_INPUTS = {
    ("tensor", False, False): "uint8_per_tensor",
    ("token", True, True): "int8_per_token",
}


def load_to_measure(directory: str | Path) -> PreTrainedModel:
    """Load a model as `load_model` does; a model of compressed-tensors as floats."""
    if format_of(directory) != COMPRESSED:
        return load_model(directory)
    with warnings.catch_warnings():
        # It warns that run_compressed differs from the configuration.
        warnings.simplefilter("ignore", UserWarning)
        return load_model(
            directory,
            restore=False,
            strict=False,
            quantization_config=CompressedTensorsConfig(run_compressed=False),
        )


def format_of(directory: str | Path) -> str | None:
    """Return the `quant_method` of the weights in a directory, None if they are not rounded."""
    # Read as JSON, since transformers cannot load the configuration of an unknown class.
    held = saved_quantization(Path(directory) / CONFIG_NAME)
    return method_of(held) if held else None


def targets_of(run: SavedRun, model: PreTrainedModel) -> Targets:
    """Return the weights that the recipe of a run selects, by default those that any recipe would."""
    chosen = run.recipe.sparsity
    return find_targets(model, *([chosen.include, chosen.exclude] if chosen else []))


def zeros_of(model: PreTrainedModel, run: SavedRun, sizes: Sizes | None) -> Zeros:
    """Count the zeros of the weights that the recipe of a run selects.

    Raises `ValueError` for a model with fewer zeros than its configuration records.
    """
    if lost := lost_zeros(model):
        raise ValueError(f"{run.directory}: {describe_lost(lost)}; train it again with its zeros locked")
    weights, record = inspect_weights(targets_of(run, model)), read_sparsity_record(model)
    count = sum(weight.size for weight in weights)
    found = Counter(weight.pattern for weight in weights if weight.pattern).most_common(1)
    rounded = None
    if sizes is not None and quantized_layers(model) and sizes.encoder_weights == count:
        rounded = 1 - sizes.encoder_nonzero / count
    return Zeros(
        weights=count,
        matrices=len(weights),
        zeros=sum(weight.zeros for weight in weights),
        rounded=rounded,
        pattern=record.pattern if record else found[0][0] if found else None,
        asked=record.target if record else None,
        achieved=record.achieved if record else None,
    )


def quantization_of(model: PreTrainedModel, directory: Path) -> Quantization | None:
    """Return the schemes of a quantized model, None for others and for schemes that hf_sparse lacks.

    For compressed-tensors they are those of the configuration.
    """
    if format_of(directory) == COMPRESSED:
        return _compressed(saved_quantization(directory / CONFIG_NAME) or {})
    layers = quantized_layers(model).values()
    products = [layer for layer in layers if not layer.embedding]
    if not products:
        return None
    return Quantization(
        weights=_all(products),
        activations=", ".join(sorted({layer.activations for layer in products})),
        embeddings=_all([layer for layer in layers if layer.embedding]) or None,
        bits=max(layer.weights.bits for layer in products),
    )


def files_of(model: PreTrainedModel | None, directory: Path, staged: Path) -> tuple[Files, ...]:
    """Measure the weight files of a staged directory, with those of the folder `packed/` in it.

    `model` is the model they were made from, loaded from `directory`. Without it, or if the weights in
    `directory` were rounded by other software, only the files are measured. Raises `FileNotFoundError` if
    weights are missing.
    """
    inner = staged / PACKED_FOLDER
    places = [staged, *([inner] if inner.is_dir() and packed_file(str(inner)) else [])]
    whole = model if format_of(directory) in (None, PACKED) else None
    return tuple(
        Files(
            form=_FORMS[format_of(place)],
            folder="" if place is staged else PACKED_FOLDER,
            bytes=weight_bytes(str(place)),
            sizes=None if whole is None else measure_sizes(whole, place),
        )
        for place in places
    )


def _all(layers: list[QuantizedLayer]) -> str:
    return ", ".join(sorted({str(layer.weights) for layer in layers}))


def _compressed(held: Mapping[str, Any]) -> Quantization | None:
    """Return the schemes in a configuration of compressed-tensors, None for schemes hf_sparse lacks."""
    groups = held.get("config_groups") or {}
    if not isinstance(groups, Mapping) or len(groups) != 1:
        return None
    (group,) = groups.values()
    if not isinstance(group, Mapping):
        return None
    parts = [group.get(name) or {} for name in ("weights", "input_activations")]
    if not all(isinstance(part, Mapping) for part in parts):
        return None
    weights, inputs = _weights(parts[0]), _inputs(parts[1])
    if weights is None or inputs is None or group.get("output_activations"):
        return None
    return Quantization(weights, inputs, None, group["weights"]["num_bits"])


def _weights(held: Mapping[str, Any]) -> str | None:
    kind, size = held.get("strategy"), held.get("group_size")
    endings = {"tensor": "per_tensor", "channel": "per_channel", "group": f"group_{size}"}
    if not (_is_integer(held) and held.get("symmetric") and kind in tuple(endings)):
        return None
    return f"int{held['num_bits']}_{endings[kind]}"


def _inputs(held: Mapping[str, Any] | None) -> str | None:
    if not held:
        return "none"
    kind = (held.get("strategy"), held.get("symmetric"), held.get("dynamic"))
    found = next((name for known, name in _INPUTS.items() if kind == known), None)
    return found if _is_integer(held) and held["num_bits"] == 8 else None


def _is_integer(held: Mapping[str, Any]) -> bool:
    return held.get("type") == "int" and isinstance(held.get("num_bits"), int)
