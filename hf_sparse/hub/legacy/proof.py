"""That a rescued model gives the logits of the layout it was written in."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.data.positions import most_tokens

# Seen in tests: below 1e-6. Another order of summation gives no more.
TOLERANCE = 1e-4
_SEQUENCES, _LENGTH = 4, 24


@dataclass(frozen=True)
class Proof:
    """Inputs, and what the layout gives for them before any rounding, in float32.

    `modules` of them compute as the layout does, and not as stock ones: where there are none, equal outputs
    say that a model was saved and loaded whole, and nothing about the layout.
    """

    inputs: Mapping[str, Tensor]
    expected: tuple[Tensor, ...]
    modules: int

    def difference(self, model: PreTrainedModel) -> float:
        """Return the largest difference of a model's outputs from those expected, as a share of the largest.

        Raises `ValueError` if it is above `TOLERANCE`, or not a number.
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
    """Compute what a layout gives on random texts, with padding, always the same, before any rounding.

    `model` is the stock class of the checkpoint, which is copied. In the copy, modules that the layout has
    stored otherwise compute as the library did, from what it stored: masks multiply before every pass,
    removed heads and neurons are missing, values lie in rows without zeros, norms do not normalize. All the
    others are stock, with tensors that transformers has loaded by their names.
    """
    reference, modules = deepcopy(model).float(), 0
    for name, make in as_written.items():
        # A pooler that the class has none of, which `build` has left out.
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
    # Of tensors, since Python's maximum may pass over what is not a number.
    return torch.stack(shares).max().item()


def random_texts(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return random tokens with an attention mask, and segments where the model has them."""
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
    """Return the outputs of a model that are floats, computed in float32."""
    computing = model if model.dtype == torch.float32 else deepcopy(model).float()
    with torch.no_grad():
        outputs = computing.eval()(**inputs).to_tuple()
    return tuple(output for output in outputs if isinstance(output, Tensor) and output.is_floating_point())


def own_name(model: PreTrainedModel, name: str) -> str | None:
    """Return what a model calls a module of the checkpoint, which may be its base model or hold more."""
    prefix = f"{model.base_model_prefix}."
    names = {own for own, _ in model.named_modules()}
    candidates = (name, name.removeprefix(prefix), f"{prefix}{name}")
    return next((own for own in candidates if own in names), None)
