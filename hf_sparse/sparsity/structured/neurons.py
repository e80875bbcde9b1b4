"""The neurons of feed-forward layers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from hf_sparse.architectures import ACTIVATION_SETTINGS, feed_forward_width
from hf_sparse.sparsity.structured.structures import Structures, bias_of, by_layer, filled


@dataclass(frozen=True)
class Neurons(Structures):
    """The neurons of one layer; `into` is one matrix, with a gate two.

    Without a known activation only neurons that nothing reads are dead.
    """

    activation: nn.Module | None

    def constant(self) -> tuple[Tensor, Tensor]:
        """Return a mask of neurons without weights, and their output; with a gate one zero factor does."""
        nothing = torch.zeros_like(self.out.weight[0])
        if self.activation is None:
            return nothing.bool(), nothing
        empty = [~filled(target.weight, 1) for target in self.into]
        if len(self.into) == 1:
            return empty[0], self.activation(bias_of(self.into[0])) * empty[0]
        still = [found & (bias_of(target) == 0) for found, target in zip(empty, self.into, strict=True)]
        # The names do not show which of the two goes through the activation.
        keeps_zero = bool(self.activation(torch.zeros(1)) == 0)
        constant = (still[0] | still[1]) if keeps_zero else torch.zeros_like(still[0])
        return constant, nothing

    def changes(self, model: PreTrainedModel, gone: int) -> dict[str, Any]:
        key, width = width_of(model)
        return {key: width - gone}


def find_neurons(model: PreTrainedModel) -> list[Neurons]:
    """Return the neurons of every layer: matrices with a side of the width that the configuration says.

    Raises `ValueError` where the feed-forward layers cannot be identified, and for quantized models.
    """
    _, width = width_of(model)
    activation, found = _activation(model), []
    for name, all_of_layer in by_layer(model).items():
        targets = [target for target in all_of_layer if width in target.weight.shape]
        if not targets:
            continue
        into = tuple(target for target in targets if target.weight.shape[0] == width)
        out = [target for target in targets if target.weight.shape[1] == width]
        if len(out) != 1 or not 1 <= len(into) <= 2 or len(into) + 1 != len(targets):
            raise ValueError(
                f"the feed-forward layer of {name} is not clear: {len(targets)} of its matrices have a "
                f"side of {width}"
            )
        found.append(Neurons(name, into, out[0], width, activation))
    if not found:
        raise ValueError(f"no layer of {type(model).__name__} has a matrix with a side of {width}")
    return found


def width_of(model: PreTrainedModel) -> tuple[str, int]:
    """Return the setting of the width of the feed-forward layers, and the width."""
    found = feed_forward_width(model.config)
    if found is not None:
        return found
    raise ValueError(
        f"the configuration of {type(model).__name__} does not say how wide its feed-forward layers are, so "
        "they cannot be made smaller"
    )


def _activation(model: PreTrainedModel) -> nn.Module | None:
    names = (getattr(model.config, key, None) for key in ACTIVATION_SETTINGS)
    return next((ACT2FN[name] for name in names if isinstance(name, str) and name in ACT2FN), None)
