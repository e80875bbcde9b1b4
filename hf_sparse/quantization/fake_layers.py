"""Linears that compute in floats with weights and inputs rounded to few bits."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.activations import observe, simulate, simulate_per_token
from hf_sparse.quantization.shared_inputs import Readers, give, take
from hf_sparse.quantization.weights import WeightScheme

ACTIVATIONS = ("uint8_per_tensor", "int8_per_token", "none")


@dataclass
class Phase:
    """The state that all quantized layers of a model share.

    `active`: weights and inputs are rounded. `observing`: ranges of inputs move, in training mode or, while
    `calibrating`, in every mode.
    """

    active: bool = True
    observing: bool = True
    calibrating: bool = False

    def moves(self, training: bool) -> bool:
        """Return whether the range of a layer moves, given whether it is in training mode."""
        return self.observing and (training or self.calibrating)


@dataclass(eq=False)
class LayerQuantization:
    """How one layer is quantized; the range of its input is in buffers of its module.

    `seen`: the input has a range. `called`: the layer has computed since it was quantized.
    """

    weights: WeightScheme
    activations: str
    observer: str
    phase: Phase
    readers: Readers | None = None
    seen: bool = False
    called: bool = False

    @property
    def observed(self) -> bool:
        """Whether the input can be rounded; only uint8_per_tensor needs a range for that."""
        return self.activations != "uint8_per_tensor" or self.seen

    def input(self, module: "_FakeQuant", values: Tensor) -> Tensor:
        """Return the input rounded; in training, the range first moves towards it.

        Without a range, as in an evaluation before training, return the input as it is.
        """
        if self.activations == "none":
            return values
        if self.activations == "int8_per_token":
            return simulate_per_token(values)
        low, high = module.input_low, module.input_high
        moves = self.phase.moves(module.training) and not _is_recomputing()
        found = take(self.readers, values)
        if moves:
            if found is None:
                observe(self.observer, values, low, high)
            else:
                low.copy_(found.low), high.copy_(found.high)
            self.seen = True
        if not self.seen:
            return values
        if found is not None and found.covers(low, high):
            return found.outcome
        quantized = simulate(values, low, high)
        give(self.readers, values, quantized, low, high)
        return quantized


@torch.compiler.disable
def _is_recomputing() -> bool:
    """Return whether activation checkpointing computes this again, with the ranges of the forward pass."""
    # Inside a backward pass.
    return torch._C._current_graph_task_id() != -1


class _FakeQuant(nn.Module):
    """A forward pass that rounds weight and input; parameters keep their names and values."""

    quantization: LayerQuantization
    input_low: Tensor
    input_high: Tensor
    weight: Any
    bias: Any

    def matrix(self) -> Tensor:
        """Return the weight (out, in)."""
        return self.weight

    def forward(self, inputs: Tensor) -> Tensor:
        self.quantization.called = True
        if not self.quantization.phase.active:
            return super().forward(inputs)
        weight = self.quantization.weights.simulate(self.matrix())
        return functional.linear(self.quantization.input(self, inputs), weight, self.bias)


class FakeQuantLinear(_FakeQuant, nn.Linear):
    """A Linear whose `forward` rounds weight and input."""


class FakeQuantConv1D(_FakeQuant, Conv1D):
    """The same for GPT-2's `Conv1D`, whose weight is stored as (in, out)."""

    def matrix(self) -> Tensor:
        """Return the weight (out, in), of which `weight` is the transpose."""
        return self.weight.t()
