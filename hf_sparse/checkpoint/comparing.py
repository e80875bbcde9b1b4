"""Whether the tensors of a packed file are those of a model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse.checkpoint.container import DTYPES, FLOATS, Entry, damaged
from hf_sparse.checkpoint.entries import bit_patterns, check, unpack
from hf_sparse.quantization.convert import QUANTIZED
from hf_sparse.sparsity.numpy_ops import parallel_map

_WEIGHT = ".weight"


def compare(
    entries: Mapping[str, Entry],
    planned: Mapping[str, Tensor],
    ties: Mapping[str, list[str]],
    path: Path,
) -> None:
    """Raise `ValueError` unless a file has the tensors of a model, in the codings that their shapes need."""
    if entries.keys() != ties.keys():
        other = sorted(entries.keys() ^ ties.keys())
        raise ValueError(
            f"{path} and the model of the config.json beside it differ in {len(other)} tensors, such as "
            f"{other[0]}; restore the config.json that was written with it"
        )
    for name, entry in entries.items():
        compare_tensor(name, entry, planned[name], path)


def compare_names(found: Iterable[str], left_over: Iterable[str], model: PreTrainedModel, path: Path) -> None:
    """Raise `ValueError` unless a model takes all of a file and finds all it has there, but for another head.

    `found` are names of the model, `left_over` those in the file that it has no place for.
    """
    planned, prefix = model.state_dict().keys(), f"{model.base_model_prefix}."
    found, ties = set(found), getattr(model, "all_tied_weights_keys", {})
    # Of those that are tied one is there.
    wrong = {*(planned - found - ties.keys() - set(ties.values())), *left_over}
    if type(model).__name__ not in (model.config.architectures or ()):
        # Of other models, layers are too few or too many where there are others like them.
        alike = {_unnumbered(name, prefix) for name in found}
        wrong = {name for name in wrong if _unnumbered(name, prefix) in alike}
    if wrong:
        raise ValueError(
            f"{path} and the {type(model).__name__} of the config.json beside it differ in {len(wrong)} "
            f"tensors, such as {min(wrong)}; restore the config.json that was written with it"
        )


def _unnumbered(name: str, prefix: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", name.removeprefix(prefix))


def compare_tensor(name: str, entry: Entry, tensor: Tensor, path: Path) -> None:
    dtype = DTYPES[entry.dtype]
    # Whole models are cast to other floats, never to integers.
    alike = dtype == tensor.dtype or (dtype in FLOATS and tensor.dtype in FLOATS)
    if entry.shape != tuple(tensor.shape) or not alike:
        raise ValueError(
            f"{path} holds {name} as {entry.dtype} {entry.shape}, the model of its configuration has "
            f"{tensor.dtype} {tuple(tensor.shape)}; restore the config.json that was written with it, and "
            "change the size of a head after loading, not while loading"
        )
    try:
        check(entry)
    except ValueError as error:
        raise damaged(path, f"{name}: {error}") from error


def compare_layers(entries: Mapping[str, Entry], skeleton: nn.Module, path: Path) -> None:
    """Raise `ValueError` unless what is quantized are weights of Linears or embeddings, stored alike."""
    modules = dict(skeleton.named_modules())
    for name, entry in entries.items():
        if entry.quantization is None:
            continue
        module = modules.get(name.removesuffix(_WEIGHT)) if name.endswith(_WEIGHT) else None
        fits = type(module) in QUANTIZED and entry.quantization.transposed == isinstance(module, Conv1D)
        # An embedding reads no numbers that could be rounded.
        if not fits or (isinstance(module, nn.Embedding) and entry.quantization.activations != "none"):
            raise damaged(path, f"{name} is quantized and is not the weight of a Linear or an embedding")


def require_same(
    pairs: Mapping[str, tuple[Entry, memoryview]], written: Mapping[str, Entry], model: nn.Module
) -> None:
    """Raise `ValueError` unless a file that was read holds what a model computes with, bit for bit."""

    def differs(name: str) -> str | None:
        entry, content = pairs[name]
        if entry != replace(written[name], crc32=entry.crc32):
            return "its description"
        try:
            found = unpack(entry, content)
        except ValueError as error:
            return str(error)
        return None if _same(found, _computed(model, name, entry), entry) else "its values"

    for name, what in zip(pairs, parallel_map(differs, pairs), strict=True):
        if what is not None:
            raise ValueError(
                f"{name} does not come back as it was packed ({what}), and nothing was written; save the "
                "model with save_pretrained, and pack what that saved"
            )


def _computed(model: nn.Module, name: str, entry: Entry) -> Tensor:
    """Return a tensor as the forward pass takes it."""
    weight = model.state_dict(keep_vars=True)[name].detach()
    if entry.quantization is None:
        return weight
    scheme = model.get_submodule(name.removesuffix(_WEIGHT)).quantization.weights
    return scheme.simulate(weight.t()).t() if entry.quantization.transposed else scheme.simulate(weight)


def _same(one: Tensor, other: Tensor, entry: Entry) -> bool:
    if entry.quantization is not None:
        # Rounding may leave a zero its sign, which codes do not have.
        return one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    return one.dtype == other.dtype and np.array_equal(bit_patterns(one), bit_patterns(other))
