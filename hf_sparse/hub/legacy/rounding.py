"""How far the rounding of a layout moved its logits.

Layers of quantized checkpoints round weights, inputs and outputs to 8 bits in every forward pass. A rescued
model computes with the floats, which equal outputs before rounding prove; what rounding made of them is
measured here. Products of activations, which stock models have no modules for, are left out.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.hub.legacy.proof import Proof, apart, compute, own_name
from hf_sparse.hub.legacy.state import POOLER, Grid, Rounds


@dataclass(frozen=True)
class Rounding:
    """How far rounding moved outputs, as a share of the largest; None if it was not computed for any layer.

    It was for `layers` of them; `others` rounded as well, in products of activations or in ways unknown here.
    """

    difference: float | None
    layers: int
    others: tuple[str, ...]


def measure_rounding(
    model: PreTrainedModel, proof: Proof, rounded: Mapping[str, Rounds | None]
) -> Rounding | None:
    """Compare a model whose layers round with the floats it rounds, on the inputs of the proof.

    `model` holds the floats, and is copied. None if no layer rounded.
    """
    computing, layers, others = deepcopy(model).float(), 0, []
    for name, rounds in rounded.items():
        own = own_name(computing, name)
        if own is None and f".{name}".endswith(POOLER):
            continue
        module = None if own is None else computing.get_submodule(own)
        if rounds is not None and _fits(rounds, module):
            _round(module, rounds)
            layers += 1
        else:
            others.append(name)
    if not layers and not others:
        return None
    difference = apart(compute(computing, proof.inputs), proof.expected) if layers else None
    return Rounding(difference, layers, tuple(others))


def _fits(rounds: Rounds, module: nn.Module | None) -> bool:
    if not isinstance(module, nn.Linear | nn.Embedding):
        return False
    rows = ((rounds.weight, len(module.weight)), (rounds.inputs, 1), (rounds.outputs, 1))
    return all(grid is None or grid.fits(count) for grid, count in rows)


def _round(module: nn.Module, rounds: Rounds) -> None:
    if rounds.weight is not None:
        # A parameter of its own: another layer that shares the weight need not round it.
        module.weight = nn.Parameter(rounds.weight.round(module.weight.detach()), requires_grad=False)
    if rounds.inputs is not None:
        module.register_forward_pre_hook(partial(_round_input, rounds.inputs))
    if rounds.outputs is not None:
        module.register_forward_hook(partial(_round_output, rounds.outputs))


def _round_input(grid: Grid, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (grid.round(arguments[0]), *arguments[1:])


def _round_output(grid: Grid, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return grid.round(output)
