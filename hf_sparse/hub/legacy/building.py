"""Stock models out of tensors, nothing missing and nothing left over."""

from collections.abc import Iterable

import torch
import transformers
from transformers import PreTrainedModel

from hf_sparse.hub.legacy.state import POOLER, State, listed


def build(state: State) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Return the model that a configuration names, in evaluation mode, and what was left out, in words.

    Transformers renames what it always did: `LayerNorm.gamma`, the prefix of the base model. Only a pooler
    that the class has none of may be left out. Raises `ValueError` for classes that transformers does not
    have, tensors that are missing, left over, or of other shapes.
    """
    named = state.config.get("architectures") or [None]
    kind = getattr(transformers, str(named[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(
            f"architectures in config.json names {named[0]}, which is no model of transformers; write the "
            "class that it is, such as BertForQuestionAnswering"
        )
    if "quantization_config" in state.config:
        held = state.config["quantization_config"]
        method = held.get("quant_method") if isinstance(held, dict) else held
        raise ValueError(
            f"the checkpoint is quantized by {method}, which is no layout of this command; load it with "
            "from_pretrained, or take the model it was made of"
        )
    model, report = kind.from_pretrained(
        None,
        config=state.stock_config(),
        state_dict=dict(state.tensors),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=_dtype(state),
    )
    spare = [
        key for key in report["unexpected_keys"] if f".{key}".endswith((f"{POOLER}.weight", f"{POOLER}.bias"))
    ]
    spoken = f"a {kind.__name__}; name another class under architectures in config.json, or get all files"
    _refuse("the checkpoint has no {}, which would be random in " + spoken, report["missing_keys"])
    _refuse("{} has another shape than in " + spoken, [key for key, *_ in report["mismatched_keys"]])
    _refuse("{} is in no layout known and in no " + spoken[2:], set(report["unexpected_keys"]) - set(spare))
    return model.eval(), (f"a pooler, which {kind.__name__} has none of, left out",) if spare else ()


def _dtype(state: State) -> torch.dtype:
    floating = {value.dtype for value in state.tensors.values() if value.is_floating_point()}
    return floating.pop() if len(floating) == 1 else torch.float32


def _refuse(sentence: str, keys: Iterable[str]) -> None:
    if names := sorted(keys):
        raise ValueError(sentence.format(listed(names)))
