"""From a saved model to one that is ready to run, without floats in between."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.checkpoint.container import Entry, damaged
from hf_sparse.checkpoint.entries import quantize_again, quantized_entries, scheme_of, unpack_codes
from hf_sparse.checkpoint.loading import load_model
from hf_sparse.checkpoint.packed import (
    OpenedPacked,
    finish,
    load_packed,
    open_packed,
    restored,
)
from hf_sparse.checkpoint.saved_files import packed_file
from hf_sparse.quantization.activations import parameters
from hf_sparse.quantization.layers import QuantizedLayer, require_finite
from hf_sparse.quantization.weights import WeightScheme
from hf_sparse.runtime.choosing import PackedLayer, measured_rates, pack_layer
from hf_sparse.runtime.families import Family, family_of
from hf_sparse.runtime.fusing import fuse, install
from hf_sparse.runtime.integers import IntegerLayer, from_codes, integer_layer
from hf_sparse.runtime.library import Kernels, load_kernels
from hf_sparse.runtime.optimizing import optimize
from hf_sparse.sparsity.numpy_ops import parallel_map

logger = logging.getLogger(__name__)

_WEIGHT = ".weight"


def load(name_or_path: str | Path, *, subfolder: str = "", revision: str | None = None) -> PreTrainedModel:
    """Load a saved model, ready to run: its encoder fused where its family is known, else `optimize`d.

    It lies in a directory or, under that name and at a `revision`, on the Hub; in a `subfolder` there its
    packed file may. Packed directories are the fastest: codes go from the file to the kernels. Others are
    loaded as `load_model` does: what a quantizing trainer saved has its ranges, plain models are rounded.
    Raises what that, `fuse` and `optimize` raise.
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
    family = _family(model)
    # Only for whole models it is known which layers can be fused and which can not.
    grouped = any(entry.quantization and scheme_of(entry).group for entry in opened.entries.values())
    if kernels is None or family is None or grouped:
        return ready(load_packed(path.parent))
    loaded = _from_codes(kernels, opened, model, family)
    # The contents of the file, too.
    del opened
    kernels.library.hf_sparse_trim()
    return loaded


def ready(model: PreTrainedModel) -> PreTrainedModel:
    """Fuse the encoder of a model where that can be done, else optimize it; in place."""
    if _family(model):
        try:
            return fuse(model)
        except ValueError as error:
            logger.warning("The encoder is not fused: %s", error)
    return optimize(model)


def _family(model: PreTrainedModel) -> Family | None:
    try:
        return family_of(model)
    except ValueError:
        return None


def _from_codes(
    kernels: Kernels, opened: OpenedPacked, model: PreTrainedModel, family: Family
) -> PreTrainedModel:
    """Give a model, whose weights are yet to come, those of a file; its encoder never has any."""
    names = {module: name for name, module in model.named_modules()}
    linears = [linear for _, _, six in family.parts(model.base_model) for linear in six]
    fused = {f"{names[linear]}{_WEIGHT}" for linear in linears}
    quantized = {name for name in fused & opened.pairs.keys() if opened.pairs[name][0].quantization}
    rest = {name: pair for name, pair in opened.pairs.items() if name not in quantized}
    tensors = restored(rest, opened.path)
    tensors = {
        name: tensors[first] for first, tied in opened.ties.items() if first in tensors for name in tied
    }
    require_finite(tensors.items())
    model.load_state_dict(tensors, strict=False, assign=True)

    def packed(linear: nn.Module) -> PackedLayer:
        name = names[linear]
        if f"{name}{_WEIGHT}" not in quantized:
            return pack_layer(kernels, integer_layer(name, linear, None))
        entry, content = opened.pairs[f"{name}{_WEIGHT}"]
        try:
            codes = unpack_codes(entry, content)
        except ValueError as error:
            raise damaged(opened.path, f"{name}: {error}") from error
        return pack_layer(kernels, _integers(name, entry, *codes, linear.bias))

    # Once, and not by several threads that disturb each other.
    measured_rates(kernels)
    install(kernels, model, family, parallel_map(packed, linears))
    finish(model, opened.path.parent)
    quantize_again(model, quantized_entries({name: entry for name, (entry, _) in rest.items()}))
    return model.requires_grad_(False)


def _integers(
    name: str, entry: Entry, scheme: WeightScheme, codes: Tensor, scales: Tensor, bias: Tensor | None
) -> IntegerLayer:
    ends, grid = entry.quantization.input_range, (None, None)
    if ends is not None:
        grid = parameters(*map(torch.tensor, ends))
    layer = QuantizedLayer(codes, scales, scheme, entry.quantization.activations, *grid, transposed=False)
    return from_codes(name, layer, bias)
