"""Load a saved model ready to run; a packed file goes to the kernels without floats in between."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.architectures import EncoderNames
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.entries import quantize_again, quantized_entries, scheme_of, unpack_codes
from hf_sparse.checkpoint.packed.model import (
    OpenedPacked,
    finish,
    load_packed,
    open_packed,
    restored,
)
from hf_sparse.checkpoint.packed.packed_file import Quantization, damaged
from hf_sparse.checkpoint.saved_files import packed_file
from hf_sparse.quantization.activations import parameters
from hf_sparse.quantization.quantized_layers import QuantizedLayer, require_finite_tensors
from hf_sparse.quantization.weights import WeightScheme
from hf_sparse.runtime.autotune import PackedLayer, measured_rates, pack_pieces
from hf_sparse.runtime.bindings import Kernels, load_kernels
from hf_sparse.runtime.encoders.encoder_parts import encoder_layers, encoder_names
from hf_sparse.runtime.fusion import fuse, install
from hf_sparse.runtime.integer_layer import IntegerLayer, from_codes, integer_layer
from hf_sparse.runtime.optimization import optimize
from hf_sparse.sparsity.numpy_ops import parallel_map

logger = logging.getLogger(__name__)

_WEIGHT = ".weight"


def load(name_or_path: str | Path, *, subfolder: str = "", revision: str | None = None) -> PreTrainedModel:
    """Load a saved model, ready to run: `fuse`d if its architecture allows it, else `optimize`d.

    Packed directories load fastest, since their codes go from the file to the kernels. Other directories are
    loaded by `load_model`: a model that was saved by a quantizing trainer keeps its ranges, a plain one is
    rounded.

    Args:
        name_or_path: A directory, or the name of a model on the Hub.
        subfolder: The folder of the packed file in it.
        revision: The branch, tag or commit on the Hub, for packed files.

    Returns:
        The model on the CPU, in evaluation mode and without gradients; it cannot be saved.

    Raises:
        ValueError: A file is damaged, or `subfolder` or `revision` is given for a model without a packed
            file; and as `load_model`, `fuse` and `optimize` raise it.
        OSError: The model does not exist.
    """
    kernels = load_kernels()
    path = packed_file(str(name_or_path), subfolder=subfolder, revision=revision)
    if path is None:
        if subfolder or revision:
            raise ValueError(
                f"{Path(str(name_or_path), subfolder)} holds no packed file, and of others neither subfolder "
                "nor revision can be chosen; give the directory that snapshot_download returns"
            )
        return ready(load_model(name_or_path))
    opened = open_packed(path.parent)
    model = opened.build("cpu")
    names = _encoder_names(model)
    # `fuse` and `optimize` decide about layers with scales for groups; they need the whole model.
    grouped = any(entry.quantization and scheme_of(entry).group for entry in opened.entries.values())
    if kernels is None or names is None or grouped:
        return ready(load_packed(path.parent, dequantize=False))
    loaded = _from_codes(kernels, opened, model, names)
    # Frees the contents of the file.
    del opened
    kernels.library.hf_sparse_trim()
    return loaded


def ready(model: PreTrainedModel) -> PreTrainedModel:
    """Fuse the encoder of a model if that is possible, else optimize the model; in place."""
    if _encoder_names(model):
        try:
            return fuse(model)
        except ValueError as error:
            logger.warning("The encoder is not fused: %s", error)
    return optimize(model)


def _encoder_names(model: PreTrainedModel) -> EncoderNames | None:
    try:
        return encoder_names(model)
    except ValueError:
        return None


def _from_codes(
    kernels: Kernels, opened: OpenedPacked, model: PreTrainedModel, parts: EncoderNames
) -> PreTrainedModel:
    """Fill a model without weights from a file; the codes of its encoder go straight to the kernels."""
    names = {module: name for name, module in model.named_modules()}
    linears = [
        pair
        for _, _, linears in encoder_layers(model.base_model, parts)
        for pair in zip(linears, parts.pieces, strict=True)
    ]
    fused = {f"{names[linear]}{_WEIGHT}" for linear, _ in linears}
    quantized = {
        name: (entry, entry.quantization, content)
        for name, (entry, content) in opened.pairs.items()
        if name in fused and entry.quantization
    }
    rest = {name: pair for name, pair in opened.pairs.items() if name not in quantized}
    tensors = restored(rest, opened.path)
    tensors = {
        name: tensors[first] for first, tied in opened.ties.items() if first in tensors for name in tied
    }
    require_finite_tensors(tensors.items())
    model.load_state_dict(tensors, strict=False, assign=True)

    def packed(pair: tuple[nn.Module, int]) -> tuple[PackedLayer, ...]:
        linear, pieces = pair
        name = names[linear]
        if f"{name}{_WEIGHT}" not in quantized:
            return pack_pieces(kernels, integer_layer(name, linear, None), pieces)
        entry, quantization, content = quantized[f"{name}{_WEIGHT}"]
        try:
            codes = unpack_codes(entry, content)
        except ValueError as error:
            raise damaged(opened.path, f"{name}: {error}") from error
        bias = getattr(linear, "bias", None)
        return pack_pieces(kernels, _integers(name, quantization, *codes, bias), pieces)

    # Measured once, before several threads would disturb each other's times.
    measured_rates(kernels)
    install(kernels, model, parts, parallel_map(packed, linears))
    finish(model, opened.path.parent)
    quantize_again(model, quantized_entries({name: entry for name, (entry, _) in rest.items()}))
    return model.requires_grad_(False)


def _integers(
    name: str,
    quantization: Quantization,
    scheme: WeightScheme,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
) -> IntegerLayer:
    scale = zero_point = None
    if quantization.input_range is not None:
        scale, zero_point = parameters(*map(torch.tensor, quantization.input_range))
    layer = QuantizedLayer(
        codes, scales, scheme, quantization.activations, scale, zero_point, transposed=False
    )
    return from_codes(name, layer, bias)
