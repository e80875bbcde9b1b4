"""Divergence between the attention probabilities of mapped layers.

MiniLM (Wang et al. 2020, arXiv:2002.10957, section 3.1) compares the last layers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_sparse.distillation.batch_counts import fitting_mask
from hf_sparse.distillation.cached_outputs import Place, Rows
from hf_sparse.distillation.features.term import (
    FeatureSettings,
    FeatureTerm,
    Role,
    configuration,
    learnable,
    require_same_shape,
    state_at,
)
from hf_sparse.distillation.kl import categorical
from hf_sparse.distillation.layer_map import chosen_pairs, layer_map
from hf_sparse.distillation.losses import LossTerm, add_up, position_term, precise


class Attention(FeatureTerm):
    """KL(teacher || student) of the attention of each query, averaged over heads and pairs of layers."""

    forward_options = {"output_attentions": True}

    def __init__(self, settings: FeatureSettings, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        student_config = configuration(student, "student")
        teacher_config = configuration(teacher, "teacher")
        _check_probabilities("student", student_config)
        _check_probabilities("teacher", teacher_config)
        heads = student_config.num_attention_heads, teacher_config.num_attention_heads
        if heads[0] != heads[1]:
            raise ValueError(
                f"attention compares head by head, and the student has {heads[0]} heads, the teacher "
                f"{heads[1]}; use relations, which splits both models into the same number of parts"
            )
        _check_no_dropout(student_config)
        depths = student_config.num_hidden_layers, teacher_config.num_hidden_layers
        self.pairs = layer_map(settings.layers, *depths)
        self.choices = chosen_pairs(settings.layers, *depths)

    def reads(self) -> Mapping[Place, Rows]:
        return {("attentions", layer - 1): "pairs" for layer in self.pairs.values()}

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        divergences = []
        for layer, teacher_layer in self.pairs.items():
            learned = learnable(_probabilities(student, layer), f"attention of layer {layer}")
            target = _probabilities(teacher, teacher_layer)
            require_same_shape(learned, target, "attention probabilities")
            batch, heads, length, _ = learned.shape
            keep = fitting_mask((batch, length), inputs)
            rows = None if keep is None else keep[:, None].expand(batch, heads, length)
            # Log probabilities serve as logits. Those of the student are kept finite: a key to which it gives
            # zero weight would make the divergence infinite.
            logits = precise(learned).clamp(min=torch.finfo(learned.dtype).tiny).log()
            divergences.append(
                categorical(logits, precise(target).log(), 1.0, rows) / (heads * len(self.pairs))
            )
        return [position_term(add_up(divergences), length, inputs)]


def _check_probabilities(role: Role, config: PreTrainedConfig) -> None:
    if config.is_encoder_decoder:
        raise ValueError(
            f"attention compares one kind of attention per layer, and the {role} is an encoder-decoder "
            "with three; use hidden"
        )
    # Configurations offer no public attribute for it.
    implementation = config._attn_implementation
    if implementation != "eager":
        raise ValueError(
            f"the {role}'s attention is {implementation}, which does not return probabilities; load the "
            'model with attn_implementation="eager", or call model.set_attn_implementation("eager")'
        )


def _check_no_dropout(config: PreTrainedConfig) -> None:
    """Refuse a student with attention dropout: it returns probabilities after dropout."""
    rates = config.to_dict().items()
    dropped = [name for name, rate in rates if name.startswith("att") and "drop" in name and rate]
    if dropped:
        raise ValueError(
            f"attention compares probabilities, and the student applies dropout to them ({dropped[0]} "
            f"is {getattr(config, dropped[0])}); load it with {dropped[0]}=0.0, or use relations"
        )


def _probabilities(outputs: Mapping[str, Any], layer: int) -> Tensor:
    attention = state_at(outputs.get("attentions"), layer - 1)
    if attention is None or attention.dim() != 4:
        raise ValueError(
            f"the model returned no attentions of layer {layer} and shape (batch, heads, queries, keys); "
            "use relations"
        )
    return attention
