"""Linears that compute with what their weight and their input would be in few bits."""

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.activations import observe, simulate, simulate_per_token
from hf_sparse.quantization.weights import WeightScheme

ACTIVATIONS = ("uint8_per_tensor", "int8_per_token", "none")


@dataclass
class Phase:
    """What all quantized layers of a model do at the moment.

    `active`: round at all; `observing`: move ranges, in training mode or, while `calibrating`, in any.
    """

    active: bool = True
    observing: bool = True
    calibrating: bool = False

    def moves(self, training: bool) -> bool:
        """Say whether ranges follow what is seen, in a layer in training mode or not."""
        return self.observing and (training or self.calibrating)


@dataclass(eq=False)
class SharedInput:
    """Remembers the last input and its outcome, for layers that read the same one: query, key, value."""

    readers: int
    source: Tensor | None = None
    version: int = 0
    outcome: tuple[Tensor, Tensor, Tensor] | None = None
    left: int = 0

    def __getstate__(self) -> dict[str, int]:
        """Copy and save no tensor: one that belongs to a graph cannot be."""
        return {"readers": self.readers}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)

    def get(self, source: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return the quantized input with its range, None if the input is new."""
        if source is not self.source or _version(source) != self.version:
            return None
        found, self.left = self.outcome, self.left - 1
        if not self.left:
            # Or it would hold the graph of a whole forward pass until the next one.
            self.source = self.outcome = None
        return found

    def put(self, source: Tensor, outcome: tuple[Tensor, Tensor, Tensor]) -> None:
        self.source, self.version = source, _version(source)
        self.outcome, self.left = outcome, self.readers - 1


def _version(values: Tensor) -> int:
    """Return how often a tensor was written to; under inference mode nobody counts."""
    return 0 if values.is_inference() else values._version


@dataclass(eq=False)
class LayerQuantization:
    """How one layer is quantized; the range of its input lies in buffers of its module.

    `seen`: there is such a range; `called`: the layer has computed since it is quantized.
    """

    weights: WeightScheme
    activations: str
    observer: str
    phase: Phase
    shared: SharedInput | None = None
    seen: bool = False
    called: bool = False

    @property
    def observed(self) -> bool:
        """Whether the range of the input is known, which only uint8_per_tensor needs."""
        return self.activations != "uint8_per_tensor" or self.seen

    def input(self, module: nn.Module, values: Tensor) -> Tensor:
        """Return the input as its codes restore it, in training after moving the range towards it.

        Before anything has been seen, as in an evaluation before training, the input is returned as it is.
        """
        if self.activations == "none":
            return values
        if self.activations == "int8_per_token":
            return simulate_per_token(values)
        low, high = module.input_low, module.input_high
        if self.shared is not None and (found := self.shared.get(values)) is not None:
            quantized, *ends = found
            low.copy_(ends[0]), high.copy_(ends[1])
            self.seen = True
            return quantized
        # Inside a backward pass it is a recomputation, of activation checkpointing: it must see what the
        # forward pass saw.
        if self.phase.moves(module.training) and torch._C._current_graph_task_id() == -1:
            observe(self.observer, values, low, high)
            self.seen = True
        if not self.seen:
            return values
        quantized = simulate(values, low, high)
        if self.shared is not None:
            self.shared.put(values, (quantized, low, high))
        return quantized


class FakeQuantLinear(nn.Linear):
    """A Linear with the same parameters under the same names, whose `forward` rounds weight and input."""

    quantization: LayerQuantization
    input_low: Tensor
    input_high: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        self.quantization.called = True
        if not self.quantization.phase.active:
            return super().forward(inputs)
        weight = self.quantization.weights.simulate(self.weight)
        return functional.linear(self.quantization.input(self, inputs), weight, self.bias)


class FakeQuantConv1D(Conv1D):
    """The same for GPT-2's `Conv1D`, whose weight is stored as (in, out)."""

    quantization: LayerQuantization
    input_low: Tensor
    input_high: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        self.quantization.called = True
        if not self.quantization.phase.active:
            return super().forward(inputs)
        weight = self.quantization.weights.simulate(self.weight.t())
        return functional.linear(self.quantization.input(self, inputs), weight, self.bias)
