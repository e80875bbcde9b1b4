"""Squared error between the hidden states of mapped layers (TinyBERT: Jiao et al. 2020, arXiv:1909.10351)."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from hf_sparse.architectures import DECODER_DEPTHS, ENCODER_DEPTHS
from hf_sparse.distillation.batch_counts import fitting_mask, label_mask
from hf_sparse.distillation.cached_outputs import Place, Rows
from hf_sparse.distillation.features.term import (
    FeatureSettings,
    FeatureTerm,
    Seen,
    configuration,
    learnable,
    require_same_shape,
    state_at,
)
from hf_sparse.distillation.layer_map import chosen_pairs, layer_map
from hf_sparse.distillation.losses import LossTerm, add_up, position_term, precise

_DECODER = "decoder_hidden_states"
_STACKS = {"encoder_hidden_states": ENCODER_DEPTHS, _DECODER: DECODER_DEPTHS}
_SEED = 0


class HiddenSettings(FeatureSettings, Protocol):
    """How the errors of layers are scaled, and whether each is logged: see `HiddenRecipe`."""

    normalize: bool
    layer_weights: Mapping[int, float]
    log_layers: bool


class Hidden(FeatureTerm):
    """Squared error at each token, averaged over the hidden width and the pairs of layers.

    With `normalize`, the error of a layer is divided by the mean square of the teacher's states there
    (SquareHead: Kurtic et al. 2023, arXiv:2310.06927), so states that are all zero have an error of 1. The
    mean square is measured once, over the first batch; the authors measure it in every batch, where the loss
    would depend on how a batch is split into micro-batches. If the widths differ, a learned float32 matrix
    (teacher width, student width) for each pair projects the student's states. In encoder-decoders both
    stacks are compared; decoder positions without a label are left out.
    """

    forward_options = {"output_hidden_states": True}
    mean_squares: Tensor

    def __init__(self, settings: HiddenSettings, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        student_config = configuration(student, "student")
        teacher_config = configuration(teacher, "teacher")
        depths, teacher_depths = _depths(student_config), _depths(teacher_config)
        if depths.keys() != teacher_depths.keys():
            raise ValueError(
                "hidden compares two encoder-decoders or two models with one stack, got "
                f"{type(student).__name__} and {type(teacher).__name__}; take another teacher, or leave "
                "hidden out"
            )
        self.pairs = {
            stack: layer_map(settings.layers, depth, teacher_depths[stack], lowest=0)
            for stack, depth in depths.items()
        }
        both = ((depth, teacher_depths[stack]) for stack, depth in depths.items())
        # Both stacks of an encoder-decoder may be paired in the same way.
        self.choices = tuple(
            dict.fromkeys(choice for pair in both for choice in chosen_pairs(settings.layers, *pair))
        )
        self.count = sum(len(layers) for layers in self.pairs.values())
        self.layer_weights = _layer_weights(settings.layer_weights, self.pairs)
        self.log_layers = settings.log_layers
        if settings.normalize:
            # Zero until the first batch. As part of the state dict, a buffer survives resuming.
            self.register_buffer("mean_squares", torch.zeros(self.count))
        self._prepared = False
        self._errors: dict[str, list[LossTerm]] = {}
        self.projections = nn.ParameterDict()
        if student_config.hidden_size != teacher_config.hidden_size:
            # A separate generator: the random numbers of the run must not depend on the recipe.
            generator = torch.Generator().manual_seed(_SEED)
            for name in (f"{stack}_{layer}" for stack, layers in self.pairs.items() for layer in layers):
                matrix = torch.empty(teacher_config.hidden_size, student_config.hidden_size)
                nn.init.xavier_uniform_(matrix, generator=generator)
                self.projections[name] = nn.Parameter(matrix)

    def reads(self) -> Mapping[Place, Rows]:
        stacks = self.pairs.items()
        return {(stack, layer): "tokens" for stack, layers in stacks for layer in layers.values()}

    @property
    def normalizes(self) -> bool:
        return "mean_squares" in self._buffers

    @property
    def unprepared(self) -> bool:
        # The tensor is read only until it is set: each read on an accelerator waits for the device.
        self._prepared = self._prepared or not self.normalizes or bool(self.mean_squares.any())
        return not self._prepared

    def restart(self) -> None:
        """Discard the mean squares; the next first batch measures them again."""
        self._prepared = False
        if self.normalizes:
            self.mean_squares.zero_()

    def prepare(self, seen: Iterable[Seen], accelerator: Accelerator) -> None:
        """Measure the mean squares of the teacher's states over the tokens of a batch, of all processes."""
        sums = torch.zeros(2, self.count, device=accelerator.device)
        for teacher, inputs in seen:
            pairs = ((stack, layer) for stack, layers in self.pairs.items() for layer in layers.values())
            for number, (stack, layer) in enumerate(pairs):
                (states,) = _compared(stack, inputs, precise(_state(teacher, stack, layer)))
                sums[:, number] += torch.stack([states.square().sum(), states.new_tensor(states.numel())])
        squares, numbers = accelerator.reduce(sums, "sum") if accelerator.num_processes > 1 else sums
        self.mean_squares.copy_(squares / numbers.clamp(min=1)).clamp_(min=torch.finfo(torch.float32).tiny)

    def forget_normalization(self) -> None:
        """Stop normalizing, for resumed runs that began before errors could be normalized."""
        self._buffers.pop("mean_squares", None)

    @property
    def details(self) -> dict[str, list[LossTerm]]:
        return self._errors

    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        terms, number, self._errors = [], 0, {}
        for stack, layers in self.pairs.items():
            errors = []
            for layer, teacher_layer in layers.items():
                learned = precise(learnable(_state(student, stack, layer), f"hidden states of layer {layer}"))
                target = precise(_state(teacher, stack, teacher_layer))
                if self.projections:
                    matrix = self.projections[f"{stack}_{layer}"].to(learned.dtype)
                    learned = functional.linear(learned, matrix)
                require_same_shape(learned, target, "hidden states")
                length = learned.shape[1]
                learned, target = _compared(stack, inputs, learned, target)
                error = (learned - target).square().sum() / target.shape[-1]
                if self.normalizes:
                    error = error / self.mean_squares[number]
                if self.log_layers:
                    name = f"{stack.removesuffix('hidden_states')}{layer}"
                    self._errors[name] = [_term(stack, error.detach(), length, inputs)]
                errors.append(self.layer_weights.get(layer, 1.0) * error / self.count)
                number += 1
            terms.append(_term(stack, add_up(errors), length, inputs))
        return terms


def _compared(stack: str, inputs: Mapping[str, Any], *states: Tensor) -> tuple[Tensor, ...]:
    """Select from states (batch, length, width) the positions to compare: tokens, in a decoder labels."""
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
            f"layer_weights names layer {others[0]}, which is not compared; the compared layers are "
            f"{', '.join(map(str, sorted(compared)))}"
        )
    if weights and not any(weights.get(layer, 1.0) for layer in compared):
        raise ValueError("layer_weights gives every layer the weight 0; leave hidden out instead")
    return weights


def _depths(config: PreTrainedConfig) -> dict[str, int]:
    """Return the number of layers of each stack, keyed by the name of the output with its hidden states."""
    if not config.is_encoder_decoder:
        return {"hidden_states": config.num_hidden_layers}
    depths: dict[str, int | None] = {
        stack: next((getattr(config, name) for name in names if hasattr(config, name)), None)
        for stack, names in _STACKS.items()
    }
    known = {stack: depth for stack, depth in depths.items() if depth is not None}
    if len(known) < len(depths):
        raise ValueError(
            f"the number of encoder and decoder layers is not in {type(config).__name__} under any of "
            f"{', '.join(name for names in _STACKS.values() for name in names)}; leave hidden out"
        )
    return known


def _state(outputs: Mapping[str, Any], stack: str, layer: int) -> Tensor:
    state = state_at(outputs.get(stack), layer)
    if state is None or state.dim() != 3:
        raise ValueError(
            f"the model returned no {stack} of layer {layer} and shape (batch, length, width); "
            "leave hidden out"
        )
    return state
