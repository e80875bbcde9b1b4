"""Undo a BERT whose norms multiply and add, and do not normalize.

nn_pruning (`nn_pruning/modules/nonorm.py`) replaces LayerNorm by the NoNorm of MobileBERT, `x * weight +
bias`, and writes `layer_norm_type: no_norm` into config.json. Stock BERT loads the same keys into LayerNorms
and computes something else. MobileBERT without its bottleneck computes the same: one feed-forward network per
layer, no trigrams, norms of type `no_norm`. Only the transform of its masked-language head keeps a LayerNorm.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_sparse.hub.legacy.state import Conversion, State, some

_KEY = "layer_norm_type"
_HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
)
_NORM = re.compile(r"(.+\.LayerNorm)\.(?:weight|gamma)")


def turn_into_mobilebert(state: State) -> Conversion | None:
    """Turn BERT without normalization into the MobileBERT that computes the same; see the module."""
    config = dict(state.config)
    kind = config.pop(_KEY, None)
    if kind in (None, "layer_norm"):
        return None
    architecture = (config.get("architectures") or ["BertModel"])[0]
    if kind != "no_norm" or config.get("model_type") != "bert" or config.get("is_decoder"):
        raise ValueError(
            f"{_KEY} {kind!r} of a {config.get('model_type')} cannot be expressed in transformers; only "
            "no_norm of BERT encoders can (MobileBERT)"
        )
    if architecture not in {f"Bert{head}" for head in _HEADS}:
        raise ValueError(
            f"{architecture} without normalization cannot be expressed in transformers: MobileBERT "
            "normalizes in its language head; name another class under architectures, such as BertModel, and "
            "leave out the head"
        )
    norms = [match[1] for key in state.tensors if (match := _NORM.fullmatch(key))]
    tensors = {re.sub(r"^bert\.", "mobilebert.", key): value for key, value in state.tensors.items()}
    width = config["hidden_size"]
    prefix = "mobilebert." if any(key.startswith("mobilebert.") for key in tensors) else ""
    # MobileBERT always has this part, and does not use it if embeddings are as wide as layers. It gets no
    # zeros, which would look pruned.
    unused = f"{prefix}embeddings.embedding_transformation"
    tensors |= {
        f"{unused}.weight": torch.full((width, width), 1 / width),
        f"{unused}.bias": torch.zeros(width),
    }
    config |= {
        "model_type": "mobilebert",
        "architectures": [f"Mobile{architecture}"],
        "embedding_size": width,
        "use_bottleneck": False,
        "trigram_input": False,
        "key_query_shared_bottleneck": False,
        "num_feedforward_networks": 1,
        "normalization_type": "no_norm",
        "classifier_activation": True,
        "hidden_act": config.get("hidden_act", "gelu"),
        "num_attention_heads": config.get("num_attention_heads", 12),
    }
    as_written: dict[str, Callable[[nn.Module], nn.Module]] = dict.fromkeys(norms, _without_norm)
    note = (
        f"{some(len(norms), 'norm')} that only multiply and add: {architecture} became Mobile{architecture}"
    )
    return Conversion(State(tensors, config), (note,), as_written)


def _without_norm(module: nn.Module) -> nn.Module:
    return _NoNorm(module) if isinstance(module, nn.LayerNorm) else module


class _NoNorm(nn.Module):
    """A LayerNorm of BERT that multiplies and adds only."""

    def __init__(self, module: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = module.weight, module.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight + self.bias
