"""Hidden states of mapped layers, by squared error (TinyBERT: Jiao et al. 2020, arXiv:1909.10351)."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from hf_sparse.architectures import DECODER_DEPTHS, ENCODER_DEPTHS
from hf_sparse.distillation.batch_counts import fitting_mask, label_mask
from hf_sparse.distillation.features.layer_map import layer_map, told_pairs
from hf_sparse.distillation.features.term import (
    FeatureSettings,
    FeatureTerm,
    Seen,
    configuration,
    learnable,
    require_same_shape,
)
from hf_sparse.distillation.losses import LossTerm, position_term, precise

_DECODER = "decoder_hidden_states"
_STACKS = {"encoder_hidden_states": ENCODER_DEPTHS, _DECODER: DECODER_DEPTHS}
_SEED = 0


class HiddenSettings(FeatureSettings, Protocol):
    """How errors of layers are scaled against each other, and whether each is logged: see `HiddenRecipe`."""

    normalize: bool
    layer_weights: Mapping[int, float]
    log_layers: bool


class Hidden(FeatureTerm):
    """The mean over the hidden width of the squared error at each token, averaged over the pairs of layers.

    Normalized, the error of a layer is divided by the mean square of the teacher's states there (SquareHead:
    Kurtic et al. 2023, arXiv:2310.06927), so that 1 is the error of states that are all zero. That mean is
    taken once, over the first batch, where the authors take it over every batch: a sum over micro-batches is
    then the same however they are cut. Where the widths differ, a learned matrix (teacher's width, student's
    width) for each pair, float32, takes the student's states to the teacher's width. In encoder-decoders
    both stacks are compared; the decoder's positions are those with a label.
    """

    forward_options = {"output_hidden_states": True}

    def __init__(self, settings: HiddenSettings, student: nn.Module, teacher: nn.Module) -> None:
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
        both = ((depth, their_depths[stack]) for stack, depth in depths.items())
        # Both stacks of an encoder-decoder may say the same.
        self.choices = tuple(
            dict.fromkeys(said for pair in both for said in told_pairs(settings.layers, *pair))
        )
        self.count = sum(len(layers) for layers in self.pairs.values())
        self.layer_weights = _layer_weights(settings.layer_weights, self.pairs)
        self.log_layers = settings.log_layers
        if settings.normalize:
            # Zero until the first batch is seen. In the state dict, so that a resumed run goes on with it.
            self.register_buffer("mean_squares", torch.zeros(self.count))
        self._prepared = False
        self._errors: dict[str, list[LossTerm]] = {}
        self.projections = nn.ParameterDict()
        if ours.hidden_size != theirs.hidden_size:
            # A generator of its own: what a seed gives must not depend on the recipe.
            generator = torch.Generator().manual_seed(_SEED)
            for name in (f"{stack}_{layer}" for stack, layers in self.pairs.items() for layer in layers):
                matrix = torch.empty(theirs.hidden_size, ours.hidden_size)
                nn.init.xavier_uniform_(matrix, generator=generator)
                self.projections[name] = nn.Parameter(matrix)

    @property
    def normalizes(self) -> bool:
        return "mean_squares" in self._buffers

    @property
    def unprepared(self) -> bool:
        # Looked at until it is no longer so: on an accelerator every look waits for it.
        self._prepared = self._prepared or not self.normalizes or bool(self.mean_squares.any())
        return not self._prepared

    def restart(self) -> None:
        """Measure the mean squares anew in the next first batch."""
        self._prepared = False
        if self.normalizes:
            self.mean_squares.zero_()

    def prepare(self, seen: Iterable[Seen], accelerator: Accelerator) -> None:
        """Take the mean squares of the teacher's states over the tokens of a batch, over all processes."""
        sums = torch.zeros(2, self.count, device=accelerator.device)
        for teacher, inputs in seen:
            pairs = ((stack, layer) for stack, layers in self.pairs.items() for layer in layers.values())
            for number, (stack, layer) in enumerate(pairs):
                (states,) = _compared(stack, inputs, precise(_state(teacher, stack, layer)))
                sums[:, number] += torch.stack([states.square().sum(), states.new_tensor(states.numel())])
        squares, numbers = accelerator.reduce(sums, "sum") if accelerator.num_processes > 1 else sums
        self.mean_squares.copy_(squares / numbers.clamp(min=1)).clamp_(min=torch.finfo(torch.float32).tiny)

    def forget_normalization(self) -> None:
        """Compute errors as they are, as runs did that began before errors could be normalized."""
        self._buffers.pop("mean_squares", None)

    @property
    def details(self) -> dict[str, list[LossTerm]]:
        return self._errors

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        terms, number, self._errors = [], 0, {}
        for stack, layers in self.pairs.items():
            total: Tensor | float = 0.0
            for layer, their_layer in layers.items():
                ours = precise(learnable(_state(student, stack, layer), f"hidden states of layer {layer}"))
                theirs = precise(_state(teacher, stack, their_layer))
                if self.projections:
                    ours = functional.linear(ours, self.projections[f"{stack}_{layer}"].to(ours.dtype))
                require_same_shape(ours, theirs, "hidden states")
                length = ours.shape[1]
                ours, theirs = _compared(stack, inputs, ours, theirs)
                error = (ours - theirs).square().sum() / theirs.shape[-1]
                if self.normalizes:
                    error = error / self.mean_squares[number]
                if self.log_layers:
                    name = f"{stack.removesuffix('hidden_states')}{layer}"
                    self._errors[name] = [_term(stack, error.detach(), length, inputs)]
                total += self.layer_weights.get(layer, 1.0) * error / self.count
                number += 1
            terms.append(_term(stack, total, length, inputs))
        return terms


def _compared(stack: str, inputs: Mapping[str, Any], *states: Tensor) -> tuple[Tensor, ...]:
    """Leave out padding and, in a decoder, positions without a label, of states (batch, length, width)."""
    keep = (label_mask if stack == _DECODER else fitting_mask)(states[0].shape[:2], inputs)
    if keep is None or keep.all():
        return states
    return tuple(state[keep] for state in states)


def _term(stack: str, total: Tensor, length: int, inputs: Mapping[str, Any]) -> LossTerm:
    return LossTerm(total, "labels") if stack == _DECODER else position_term(total, length, inputs)


def _layer_weights(
    weights: Mapping[int, float], pairs: Mapping[str, Mapping[int, int]]
) -> Mapping[int, float]:
    compared = {layer for layers in pairs.values() for layer in layers}
    if others := sorted(set(weights) - compared):
        raise ValueError(
            f"layer_weights has a weight for layer {others[0]}, which is not compared; those that are: "
            f"{', '.join(map(str, sorted(compared)))}"
        )
    if weights and not any(weights.get(layer, 1.0) for layer in compared):
        raise ValueError("layer_weights gives every layer the weight 0; leave hidden out instead")
    return weights


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
