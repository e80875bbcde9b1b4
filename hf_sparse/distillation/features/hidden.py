"""Hidden states of mapped layers, by squared error (TinyBERT: Jiao et al. 2020, arXiv:1909.10351)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from hf_sparse.distillation.counts import fitting_mask, label_mask
from hf_sparse.distillation.features.layer_map import layer_map
from hf_sparse.distillation.features.term import (
    FeatureSettings,
    FeatureTerm,
    configuration,
    learnable,
    require_same_shape,
)
from hf_sparse.distillation.losses import LossTerm, position_term, precise

_DECODER = "decoder_hidden_states"
# What the configurations of encoder-decoders call the number of layers of each stack.
_STACKS = {
    "encoder_hidden_states": ("encoder_layers", "num_layers"),
    _DECODER: ("decoder_layers", "num_decoder_layers"),
}
_SEED = 0


class Hidden(FeatureTerm):
    """The mean over the hidden width of the squared error at each token, averaged over the pairs of layers.

    Where the widths differ, a learned matrix (teacher's width, student's width) for each pair, float32, takes
    the student's states to the teacher's width. In encoder-decoders both stacks are compared; the decoder's
    positions are those with a label.
    """

    forward_options = {"output_hidden_states": True}

    def __init__(self, settings: FeatureSettings, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        ours, theirs = configuration(student, "student"), configuration(teacher, "teacher")
        depths, their_depths = _depths(ours), _depths(theirs)
        if depths.keys() != their_depths.keys():
            raise ValueError(
                "hidden compares two encoder-decoders or two models of one stack, got "
                f"{type(student).__name__} and {type(teacher).__name__}; take another teacher, or leave "
                "hidden out"
            )
        self.pairs = {
            stack: layer_map(settings.layers, depth, their_depths[stack], lowest=0)
            for stack, depth in depths.items()
        }
        self.count = sum(len(layers) for layers in self.pairs.values())
        self.projections = nn.ParameterDict()
        if ours.hidden_size != theirs.hidden_size:
            # A generator of its own: what a seed gives must not depend on the recipe.
            generator = torch.Generator().manual_seed(_SEED)
            for name in (f"{stack}_{layer}" for stack, layers in self.pairs.items() for layer in layers):
                matrix = torch.empty(theirs.hidden_size, ours.hidden_size)
                nn.init.xavier_uniform_(matrix, generator=generator)
                self.projections[name] = nn.Parameter(matrix)

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        terms = []
        for stack, layers in self.pairs.items():
            total: Tensor | float = 0.0
            for layer, their_layer in layers.items():
                ours = precise(learnable(_state(student, stack, layer), f"hidden states of layer {layer}"))
                theirs = precise(_state(teacher, stack, their_layer))
                if self.projections:
                    ours = functional.linear(ours, self.projections[f"{stack}_{layer}"].to(ours.dtype))
                require_same_shape(ours, theirs, "hidden states")
                length = ours.shape[1]
                keep = (label_mask if stack == _DECODER else fitting_mask)(ours.shape[:2], inputs)
                if keep is not None:
                    ours, theirs = ours[keep], theirs[keep]
                total += (ours - theirs).square().sum() / (theirs.shape[-1] * self.count)
            decoder = stack == _DECODER
            terms.append(LossTerm(total, "labels") if decoder else position_term(total, length, inputs))
        return terms


def _depths(config: PreTrainedConfig) -> dict[str, int]:
    """Return the number of layers of each stack, by the name of the output that holds its hidden states."""
    if not config.is_encoder_decoder:
        return {"hidden_states": config.num_hidden_layers}
    depths = {
        stack: next((getattr(config, name) for name in names if hasattr(config, name)), None)
        for stack, names in _STACKS.items()
    }
    if None in depths.values():
        raise ValueError(
            f"{type(config).__name__} does not say how many layers its encoder and decoder have, by any of "
            f"{', '.join(name for names in _STACKS.values() for name in names)}; leave hidden out"
        )
    return depths


def _state(outputs: Mapping[str, Any], stack: str, layer: int) -> Tensor:
    states = outputs.get(stack)
    if states is None or len(states) <= layer or states[layer].dim() != 3:
        raise ValueError(
            f"the model returned no {stack} of layer {layer} and shape (batch, length, width); "
            "leave hidden out"
        )
    return states[layer]
