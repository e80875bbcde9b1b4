"""Attention probabilities of mapped layers, by divergence.

MiniLM (Wang et al. 2020, arXiv:2002.10957, section 3.1) compares those of the last layer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_sparse.distillation.batch_counts import fitting_mask
from hf_sparse.distillation.features.layer_map import layer_map, told_pairs
from hf_sparse.distillation.features.term import (
    FeatureSettings,
    FeatureTerm,
    Role,
    configuration,
    learnable,
    require_same_shape,
)
from hf_sparse.distillation.kl import categorical
from hf_sparse.distillation.losses import LossTerm, position_term, precise


class Attention(FeatureTerm):
    """KL(teacher || student) of the probabilities at each query, averaged over heads and pairs of layers."""

    forward_options = {"output_attentions": True}

    def __init__(self, settings: FeatureSettings, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        ours, theirs = configuration(student, "student"), configuration(teacher, "teacher")
        for role, config in (("student", ours), ("teacher", theirs)):
            _check_probabilities(role, config)
        if ours.num_attention_heads != theirs.num_attention_heads:
            raise ValueError(
                f"attention compares head by head, and the student has {ours.num_attention_heads} heads, the "
                f"teacher {theirs.num_attention_heads}; use relations, which divides both anew"
            )
        _check_no_dropout(ours)
        depths = ours.num_hidden_layers, theirs.num_hidden_layers
        self.pairs = layer_map(settings.layers, *depths)
        self.choices = told_pairs(settings.layers, *depths)

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        total: Tensor | float = 0.0
        for layer, their_layer in self.pairs.items():
            ours = learnable(_probabilities(student, layer), f"attention of layer {layer}")
            theirs = _probabilities(teacher, their_layer)
            require_same_shape(ours, theirs, "attention probabilities")
            batch, heads, length, _ = ours.shape
            keep = fitting_mask((batch, length), inputs)
            rows = None if keep is None else keep[:, None].expand(batch, heads, length)
            # The logarithms of probabilities are logits of them. Those of the student stay finite: where it
            # gives a key no weight at all, the divergence would be infinite.
            logits = precise(ours).clamp(min=torch.finfo(ours.dtype).tiny).log()
            total += categorical(logits, precise(theirs).log(), 1.0, rows) / (heads * len(self.pairs))
        return [position_term(total, length, inputs)]


def _check_probabilities(role: Role, config: PreTrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise ValueError(
            f"attention compares one kind of attention, and the {role} is an encoder-decoder, which has "
            "three; use hidden"
        )
    # The setting has no public name to read it by.
    implementation = config._attn_implementation
    if implementation != "eager":
        raise ValueError(
            f"the {role}'s attention is {implementation}, which keeps its probabilities to itself; load the "
            'model with attn_implementation="eager", or call model.set_attn_implementation("eager")'
        )


def _check_no_dropout(config: PreTrainedConfig) -> None:
    """Refuse a student whose probabilities are returned with some dropped and the rest scaled up."""
    rates = config.to_dict().items()
    dropped = [name for name, rate in rates if name.startswith("att") and "drop" in name and rate]
    if dropped:
        raise ValueError(
            f"attention compares probabilities, and the student drops some of them in training ({dropped[0]} "
            f"is {getattr(config, dropped[0])}); load it with {dropped[0]}=0.0, or use relations"
        )


def _probabilities(outputs: Mapping[str, Any], layer: int) -> Tensor:
    attentions = outputs.get("attentions") or ()
    if len(attentions) < layer or attentions[layer - 1] is None or attentions[layer - 1].dim() != 4:
        raise ValueError(
            f"the model returned no attentions of layer {layer} and shape (batch, heads, queries, keys); "
            "use relations"
        )
    return attentions[layer - 1]
