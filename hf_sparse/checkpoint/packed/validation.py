"""Checks that the tensors of a packed file are those of a model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse.checkpoint.packed.entries import bit_patterns, check, unpack
from hf_sparse.checkpoint.packed.packed_file import DTYPES, FLOATS, Entry, damaged
from hf_sparse.quantization.convert import QUANTIZED, as_quantized
from hf_sparse.sparsity.numpy_ops import parallel_map

_WEIGHT = ".weight"


def tensors_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors of a model, and all names of each tensor by its first one."""
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return state, {tied[0]: tied for tied in names.values()}


def shapes_of(
    state: Mapping[str, Tensor], ties: Mapping[str, list[str]]
) -> dict[str, tuple[torch.Size, list[str]]]:
    """Return the shape and all names of each tensor by its first name."""
    return {name: (state[name].shape, tied) for name, tied in ties.items()}


def compare(
    entries: Mapping[str, Entry],
    planned: Mapping[str, Tensor],
    ties: Mapping[str, list[str]],
    path: Path,
) -> None:
    """Raise `ValueError` unless a file has the tensors of a model, with codings that fit their shapes."""
    if entries.keys() != ties.keys():
        other = sorted(entries.keys() ^ ties.keys())
        raise ValueError(
            f"{path} and the model of the config.json beside it differ in {len(other)} tensors, such as "
            f"{other[0]}; restore the config.json that was written with it"
        )
    for name, entry in entries.items():
        compare_tensor(name, entry, planned[name], path)


def compare_names(found: Iterable[str], left_over: Iterable[str], model: PreTrainedModel, path: Path) -> None:
    """Raise `ValueError` unless file and model have the same tensors, those of another head apart.

    `found` are names of tensors in both, as the model calls them; `left_over` those in the file alone.
    """
    planned, prefix = model.state_dict().keys(), f"{model.base_model_prefix}."
    found, ties = set(found), getattr(model, "all_tied_weights_keys", {})
    # A file holds one of several tied tensors.
    wrong = {*(planned - found - ties.keys() - set(ties.values())), *left_over}
    if type(model).__name__ not in (model.config.architectures or ()):
        # Tensors of the head may differ. Those of a layer count as wrong if other layers have them.
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
    """Raise `ValueError` unless an entry has shape, kind of dtype and coding for a tensor of the model."""
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
    """Raise `ValueError` unless all quantized entries are weights of Linears or embeddings of the model."""
    modules = dict(skeleton.named_modules())
    for name, entry in entries.items():
        if entry.quantization is None:
            continue
        module = modules.get(name.removesuffix(_WEIGHT)) if name.endswith(_WEIGHT) else None
        fits = type(module) in QUANTIZED and entry.quantization.transposed == isinstance(module, Conv1D)
        # The inputs of an embedding are indices, which cannot be rounded.
        if not fits or (isinstance(module, nn.Embedding) and entry.quantization.activations != "none"):
            raise damaged(path, f"{name} is quantized and is not the weight of a Linear or an embedding")


def require_same(
    pairs: Mapping[str, tuple[Entry, memoryview]], written: Mapping[str, Entry], model: nn.Module
) -> None:
    """Raise `ValueError` unless a file that was read back has the values of a model, bit for bit."""

    def differs(name: str) -> str | None:
        entry, content = pairs[name]
        if entry != replace(written[name], crc32=entry.crc32):
            return "its description"
        try:
            found = unpack(entry, content)
        except ValueError as error:
            return str(error)
        return None if _same(found, _computed(model, name, entry), entry) else "its values"

    for name, part in zip(pairs, parallel_map(differs, pairs), strict=True):
        if part is not None:
            raise ValueError(
                f"{name} does not come back as it was packed ({part}), and nothing was written; save the "
                "model with save_pretrained, and pack what that saved"
            )


def _computed(model: nn.Module, name: str, entry: Entry) -> Tensor:
    """Return a tensor as the forward pass uses it: a quantized weight as rounded."""
    weight = model.state_dict(keep_vars=True)[name].detach()
    if entry.quantization is None:
        return weight
    scheme = as_quantized(model.get_submodule(name.removesuffix(_WEIGHT))).quantization.weights
    return scheme.simulate(weight.t()).t() if entry.quantization.transposed else scheme.simulate(weight)


def _same(one: Tensor, other: Tensor, entry: Entry) -> bool:
    if entry.quantization is not None:
        # Rounding may give -0, which codes cannot represent.
        return one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    return one.dtype == other.dtype and np.array_equal(bit_patterns(one), bit_patterns(other))
