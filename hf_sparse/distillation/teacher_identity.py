"""What the outputs of a teacher depend on besides the example: its weights, the tokenizer, the precision."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_sparse.distillation.base_teacher import BaseAsTeacher
from hf_sparse.distillation.unwrap import unwrapped

FORMAT_VERSION = 1
_SHOWN = 16
# What the identity of a cache is called in messages.
_SAID = {
    "format_version": "format version",
    "teacher": "a teacher whose digest is",
    "tokenizer": "a tokenizer whose digest is",
    "precision": "mixed precision",
    "outputs": "the outputs",
    "top_k": "top_k",
    "half": "half",
}
# Attributes of modules that say in what state they are, not what they compute.
_STATES = ("training", "gradient_checkpointing", "name_or_path", "warnings_issued", "hf_device_map")
# Settings of a configuration that do not change what a model computes.
_NAMES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "hf_sparse")


def check_same(directory: Path, held: Mapping[str, Any], own: Mapping[str, Any], way_out: str) -> None:
    """Raise `ValueError` unless the outputs in a directory are those that a run would compute.

    Args:
        directory: The directory, for the message.
        held: What it says of itself.
        own: What `identity_of` says of the run, with further settings.
        way_out: Ends the message.
    """
    for name, value in own.items():
        # A run without a tokenizer reads token ids that another one made.
        if name == "tokenizer" and None in (value, held.get(name)):
            continue
        if held.get(name) != value:
            raise ValueError(
                f"{directory} was written with {_SAID[name]} {_said(held.get(name))}, and this run has "
                f"{_said(value)}; {way_out}"
            )


def identity_of(
    teacher: nn.Module, processing_class: Any, precision: str, outputs: Iterable[str]
) -> dict[str, Any]:
    """Return what the outputs of a teacher depend on besides the example.

    Args:
        teacher: The model; its weights, buffers, modules with their plain attributes, adapters and hooks, and
            its configuration count.
        processing_class: The tokenizer or a processor that holds one; anything else is unknown.
        precision: The mixed precision that the teacher computes in.
        outputs: What is kept.
    """
    return {
        "format_version": FORMAT_VERSION,
        "teacher": digest_of(teacher),
        "tokenizer": _tokenizer_digest(processing_class),
        "precision": precision,
        "outputs": sorted(outputs),
    }


def digest_of(teacher: nn.Module) -> str:
    """Return a hash of everything in a model that its outputs depend on."""
    model = unwrapped(teacher)
    config = getattr(model, "config", None)
    settings = config.to_diff_dict() if isinstance(config, PreTrainedConfig) else {}
    known = {name: value for name, value in settings.items() if name not in _NAMES}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, module in model.named_modules():
        held = json.dumps([name, type(module).__qualname__, _attributes(module)], sort_keys=True, default=str)
        digest.update(f"{held}\n".encode())
    # The adapters of a student that is its own teacher are off, and train.
    base = isinstance(teacher, BaseAsTeacher)
    weights = {name: value for name, value in model.named_parameters() if not (base and value.requires_grad)}
    tensors = sorted((weights | dict(model.named_buffers())).items())
    with ThreadPoolExecutor(max_workers=4) as pool:
        for found in pool.map(_hash, *zip(*tensors, strict=True)) if tensors else ():
            digest.update(found)
    return digest.hexdigest()


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return what besides tensors may change the outputs of a module: numbers, texts, adapters, hooks."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    held = {name: value for name, value in public.items() if name not in _STATES and _is_plain(value)}
    for name in ("_active_adapter", "_disable_adapters", "merged_adapters"):
        held[name] = getattr(module, name, None)
    quantization = getattr(module, "quantization", None)
    if quantization is not None:
        held["quantization"] = f"{quantization.weights} {quantization.activations}"
    for kind in ("_forward_hooks", "_forward_pre_hooks"):
        hooks = vars(module)[kind].values()
        held[kind] = [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in hooks]
    return held


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def _hash(name: str, tensor: Tensor) -> bytes:
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _tokenizer_digest(processing_class: Any) -> str | None:
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if not hasattr(tokenizer, "get_vocab"):
        return None
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


def _said(value: object) -> str:
    if isinstance(value, str):
        return value[:_SHOWN]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
