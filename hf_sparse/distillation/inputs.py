"""Which columns of a batch a model reads, whether it shifts labels, and its outputs by name."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature, unwrap
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from hf_sparse.distillation.unwrap import transformer_in, unwrapped

logger = logging.getLogger(__name__)

TARGET_NAMES = {"start_positions", "end_positions"}
_DECODER_INPUTS = ("decoder_input_ids", "decoder_inputs_embeds")
_SEGMENTS = "token_type_ids"
_ANSWERS = ("start_logits", "end_logits")


@dataclass(frozen=True)
class Taken:
    """Arguments of a forward pass: all `names`, the `required` ones, and whether it accepts `others`."""

    names: frozenset[str]
    required: tuple[str, ...]
    others: bool

    @classmethod
    def by(cls, model: nn.Module) -> "Taken":
        """Read the forward signature of a model, inside any wrappers."""
        inner = unwrapped(model)
        named, others = _parameters(inner.forward)
        names = {parameter.name for parameter in named}
        if others:
            # The method of the instance may be replaced by a wrapper that passes everything on.
            names |= {parameter.name for parameter in _parameters(type(inner).forward)[0]} - {"self"}
        required = tuple(parameter.name for parameter in named if parameter.default is Parameter.empty)
        return cls(frozenset(names), required, others)

    def of(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a batch that the forward pass takes."""
        return {name: value for name, value in inputs.items() if self.others or name in self.names}


def _parameters(forward: Callable) -> tuple[list[Parameter], bool]:
    """Return the named parameters of a function, and whether it takes other keywords."""
    parameters = signature(forward).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    unnamed = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return [p for p in parameters if p.kind not in unnamed], Parameter.VAR_KEYWORD in kinds


def teacher_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch without its labels, so that the teacher computes outputs alone."""
    return {name: value for name, value in inputs.items() if "label" not in name and name not in TARGET_NAMES}


def decoder_inputs(student: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels as the teacher's decoder input if a batch holds no other; else an empty dict.

    An encoder-decoder derives decoder inputs from labels in its forward pass. Some also have a method for
    that, but its result can differ. The forward pass then also computes an unused loss.
    """
    given = any(inputs.get(name) is not None for name in _DECODER_INPUTS)
    model = transformer_in(student)
    if given or inputs.get("labels") is None or model is None:
        return {}
    return {"labels": inputs["labels"]} if model.config.is_encoder_decoder and model.can_generate() else {}


def as_mapping(model: nn.Module) -> dict[str, bool]:
    """Return the keyword that makes a model return outputs by name if its configuration says otherwise."""
    inner = unwrapped(model)
    tuples = isinstance(inner, PreTrainedModel) and not getattr(inner.config, "return_dict", True)
    return {"return_dict": True} if tuples else {}


def named(outputs: Any, inputs: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    """Return the outputs of a model by name.

    Args:
        outputs: A mapping, returned as it is; a tensor, which is the logits; or a tuple. After an optional
            loss, its first tensor is the logits or, if the batch has answer positions, its first two are the
            start and end logits.
        inputs: The batch.
        role: `student` or `teacher`, for messages.

    Raises:
        ValueError: The outputs have another form.
    """
    if isinstance(outputs, Mapping):
        return outputs
    values = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if values and isinstance(values[0], Tensor) and not values[0].dim():
        values = values[1:]
    names = _ANSWERS if inputs.get("start_positions") is not None else ("logits",)
    values = values[: len(names)]
    if len(values) < len(names) or not all(isinstance(value, Tensor) for value in values):
        kinds = ", ".join(type(value).__name__ for value in values) or type(outputs).__name__
        raise ValueError(
            f"the {role} returned {kinds} instead of {' and '.join(names)}; return a dictionary of tensors "
            "by name, as models of transformers do"
        )
    return dict(zip(names, values, strict=True))


def shifts_labels(model: nn.Module) -> bool:
    """Return whether the model's own loss compares each output with the next label, leaving out the first.

    Causal models do if their forward pass uses the loss function that transformers chose for them. Some
    causal models (BART's decoder, XLNet) expect shifted labels and compute cross entropy as it is.
    Encoder-decoders shift the decoder's inputs instead.
    """
    inner = transformer_in(model)
    if inner is None or inner.config.is_encoder_decoder or not _uses_loss_function(type(inner)):
        return False
    used = inner.loss_function
    # A loss function that the user has set replaces the one of `loss_type`.
    return (used if used in LOSS_MAPPING.values() else LOSS_MAPPING.get(inner.loss_type)) is ForCausalLMLoss


def check_given(
    student: nn.Module, teacher: nn.Module, inputs: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Raise `ValueError` if a teacher lacks inputs that it needs; warn if it probably lacks token types."""
    taken, who = Taken.by(teacher), f"the teacher {type(unwrapped(teacher)).__name__}"
    missing = [name for name in taken.required if name not in given]
    way_out = (
        "take a teacher whose forward pass names columns of the batch, as models of transformers do (that of "
        "a SentenceTransformer is inside: model[0].auto_model)"
    )
    if missing:
        raise ValueError(
            f"{who} needs {', '.join(missing)}, and a batch has {', '.join(sorted(inputs))}; add the missing "
            f"columns to the data, or {way_out}"
        )
    if taken.names and not taken.names & given.keys():
        raise ValueError(
            f"{who} takes none of the columns of a batch, {', '.join(sorted(inputs))}; {way_out}"
        )
    from_labels = decoder_inputs(student, inputs)
    if from_labels.keys() - given.keys():
        raise ValueError(
            f"the decoder of {who} starts from {', '.join(from_labels)}, which its forward pass does not "
            "take; put decoder_input_ids into the batch, or take another teacher"
        )
    if _lacks_segments(teacher, taken, given) and _SEGMENTS not in Taken.by(student).names:
        logger.warning(
            "%s separates two texts in one input by token_type_ids, which the batches lack, so it reads "
            "every pair as one text; tokenize pairs with return_token_type_ids=True.",
            who[0].upper() + who[1:],
        )


def _lacks_segments(teacher: nn.Module, taken: Taken, given: Mapping[str, Any]) -> bool:
    types = getattr(getattr(unwrapped(teacher), "config", None), "type_vocab_size", 0) or 0
    reads_ids = isinstance(given.get("input_ids"), Tensor)
    return reads_ids and types > 1 and _SEGMENTS in taken.names and _SEGMENTS not in given


def _uses_loss_function(kind: type[PreTrainedModel]) -> bool:
    """Return whether the forward pass of a class, or of its transformers ancestor, calls `loss_function`."""
    inherited = (
        vars(ancestor)["forward"]
        for ancestor in kind.__mro__
        if ancestor.__module__.startswith("transformers.") and "forward" in vars(ancestor)
    )
    return "loss_function" in unwrap(next(inherited, kind.forward)).__code__.co_names
