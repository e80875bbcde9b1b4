"""Compare the logits of a rescued model with those of its layout, before and after rounding to 8 bits.

Layers of quantized checkpoints round weights, inputs and outputs in every forward pass. A rescued model
computes in floats: equal logits before rounding prove that it is the same model, and how far rounding moves
them is measured. Rounding in products of activations is left out, since stock models lack modules for it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.data.positions import most_tokens
from hf_sparse.hub.legacy.old_checkpoint import POOLER, Grid, Rounds

# Another order of summation gives differences below 1e-6 in tests.
TOLERANCE = 1e-4
_SEQUENCES, _LENGTH = 4, 24


@dataclass(frozen=True)
class Proof:
    """Inputs and the outputs that the layout gives for them, in float32 and before any rounding.

    `modules` counts the modules that compute as the layout does instead of as stock ones. If it is 0, equal
    outputs show only that the model was saved and loaded whole.
    """

    inputs: Mapping[str, Tensor]
    expected: tuple[Tensor, ...]
    modules: int

    def difference(self, model: PreTrainedModel) -> float:
        """Return the largest difference of a model's outputs from the expected, as a share of the largest.

        Raises `ValueError` if the difference is above `TOLERANCE` or NaN.
        """
        outputs = compute(model, self.inputs)
        if [output.shape for output in outputs] != [output.shape for output in self.expected]:
            raise ValueError(
                "the model has other outputs than its layout, and is not saved; please report it"
            )
        largest = apart(outputs, self.expected)
        if not largest <= TOLERANCE:
            raise ValueError(
                f"logits differ by {largest:.1e} of the largest from those of the layout, where "
                f"{TOLERANCE:.0e} is allowed, so the model is not saved; please report it with the name of "
                "the checkpoint"
            )
        return largest


def prove(model: PreTrainedModel, as_written: Mapping[str, Callable[[nn.Module], nn.Module]]) -> Proof:
    """Return the outputs of a layout on fixed random texts with padding, before any rounding.

    `model` is of the stock class of the checkpoint and is copied. In the copy, modules that the layout stores
    in its own way compute as its library did: masks multiply before every pass, removed heads and neurons are
    missing, rows hold values without zeros, norms do not normalize. All other modules are stock.
    """
    reference, modules = deepcopy(model).float(), 0
    for name, make in as_written.items():
        # A pooler that the class lacks, which `build` has left out.
        if (own := own_name(reference, name)) is None:
            continue
        stock = reference.get_submodule(own)
        if (module := make(stock)) is not stock:
            reference.set_submodule(own, module)
            modules += 1
    inputs = random_texts(model)
    return Proof(inputs, compute(reference, inputs), modules)


def apart(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference between outputs, as a share of the largest expected."""
    shares = [
        (one - other).abs().max() / (other.abs().max() or 1)
        for one, other in zip(outputs, expected, strict=True)
    ]
    # The maximum of a tensor is NaN if any share is; Python's max may skip a NaN.
    return torch.stack(shares).max().item()


def random_texts(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return random tokens with an attention mask, and with segments if the model takes them."""
    config, accepted = model.config, inspect.signature(model.forward).parameters
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"{type(model).__name__} reads {model.main_input_name}, and equal logits are shown on texts "
            "alone; take the layout off with the library that wrote it"
        )
    generator = torch.Generator().manual_seed(0)
    length = min(_LENGTH, most_tokens(model) or _LENGTH)
    shape = (_SEQUENCES, length)
    inputs = {"input_ids": torch.randint(config.vocab_size, shape, generator=generator)}
    kept = torch.tensor([length, length, length * 2 // 3, length // 2])
    inputs["attention_mask"] = (torch.arange(length) < kept[:, None]).long()
    if "token_type_ids" in accepted and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.randint(config.type_vocab_size, shape, generator=generator)
    if type(model).__name__.endswith("MultipleChoice"):
        inputs = {name: values[None] for name, values in inputs.items()}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs


def compute(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the floating-point outputs of a model, computed in float32."""
    computing = model if model.dtype == torch.float32 else deepcopy(model).float()
    with torch.no_grad():
        outputs = computing.eval()(**inputs).to_tuple()
    return tuple(output for output in outputs if isinstance(output, Tensor) and output.is_floating_point())


def own_name(model: PreTrainedModel, name: str) -> str | None:
    """Return the name in a model of a module of the checkpoint, None if the model lacks it.

    One of the two may be the base model of the other.
    """
    prefix = f"{model.base_model_prefix}."
    names = {own for own, _ in model.named_modules()}
    candidates = (name, name.removeprefix(prefix), f"{prefix}{name}")
    return next((own for own in candidates if own in names), None)


@dataclass(frozen=True)
class Rounding:
    """The effect of rounding on the outputs.

    `difference` is a share of the largest output, None if no layer could be rounded here. `layers` is the
    number of layers that were; `others` names those that round products of activations or in unknown ways.
    """

    difference: float | None
    layers: int
    others: tuple[str, ...]


def measure_rounding(
    model: PreTrainedModel, proof: Proof, rounded: Mapping[str, Rounds | None]
) -> Rounding | None:
    """Return how far the outputs of the proof move if layers round, None if no layer of the layout rounded.

    `model` holds the floats and is copied.
    """
    computing, layers, others = deepcopy(model).float(), 0, []
    for name, rounds in rounded.items():
        own = own_name(computing, name)
        if own is None and f".{name}".endswith(POOLER):
            continue
        module = None if own is None else computing.get_submodule(own)
        if rounds is not None and isinstance(module, nn.Linear | nn.Embedding) and _fits(rounds, module):
            _round(module, rounds)
            layers += 1
        else:
            others.append(name)
    if not layers and not others:
        return None
    difference = apart(compute(computing, proof.inputs), proof.expected) if layers else None
    return Rounding(difference, layers, tuple(others))


def _fits(rounds: Rounds, module: nn.Linear | nn.Embedding) -> bool:
    rows = ((rounds.weight, len(module.weight)), (rounds.inputs, 1), (rounds.outputs, 1))
    return all(grid is None or grid.fits(count) for grid, count in rows)


def _round(module: nn.Linear | nn.Embedding, rounds: Rounds) -> None:
    if rounds.weight is not None:
        # A new parameter, since another layer with the same weight may not round it.
        module.weight = nn.Parameter(rounds.weight.round(module.weight.detach()), requires_grad=False)
    if rounds.inputs is not None:
        module.register_forward_pre_hook(partial(_round_input, rounds.inputs))
    if rounds.outputs is not None:
        module.register_forward_hook(partial(_round_output, rounds.outputs))


def _round_input(grid: Grid, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (grid.round(arguments[0]), *arguments[1:])


def _round_output(grid: Grid, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return grid.round(output)
