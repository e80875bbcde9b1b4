"""Terms of the training loss as sums, so that any split into micro-batches gives the same gradient."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from hf_sparse.distillation.batch_counts import (
    IGNORED_LABEL,
    SENTENCE_LABELS,
    UNITS,
    Counts,
    Unit,
    count,
    fitting_mask,
    has_tokens,
    label_mask,
)
from hf_sparse.distillation.kl import Largest, bernoulli, categorical

__all__ = [
    "Counts",
    "LossTerm",
    "add_up",
    "count",
    "is_discriminator",
    "logits_terms",
    "mean_loss",
    "position_term",
    "precise",
    "task_terms",
]

# Outputs of the second head of pre-training models, each with its label.
_SENTENCE_HEADS = dict(zip(("seq_relationship_logits", "sop_logits"), SENTENCE_LABELS, strict=True))


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A scalar loss, summed over a micro-batch; the count of the whole batch in `unit` divides it."""

    total: Tensor
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in UNITS or self.total.dim():
            raise ValueError(
                f"a loss term is a scalar counted in one of {UNITS}, "
                f"got a tensor of shape {tuple(self.total.shape)} in {self.unit!r}"
            )


def task_terms(
    loss: Tensor, student: Mapping[str, Tensor], inputs: Mapping[str, Any], counts: Counts
) -> list[LossTerm]:
    """Turn the mean loss of a micro-batch back into sums.

    Without a valid label the sum is 0 with zero gradients, although the model's mean is NaN.

    Args:
        loss: The mean loss that the model returned, a scalar.
        student: The model's outputs by name.
        inputs: The micro-batch.
        counts: The counts of this micro-batch.
    """
    loss = precise(loss)
    if is_discriminator(student):
        return [LossTerm(loss * counts.tokens.to(loss.device), "tokens")]
    terms = []
    for head, label in _SENTENCE_HEADS.items():
        if head in student and inputs.get(label) is not None:
            sentence = functional.cross_entropy(
                precise(student[head]).view(-1, 2), inputs[label].view(-1), reduction="sum"
            )
            terms.append(LossTerm(sentence, "sentences"))
            loss = loss - sentence / counts.of("sentences").to(loss.device)
    if terms and not counts.sentences and loss.isnan():
        # The loss is the sum of the means of both heads; without sentence labels the second mean is NaN.
        loss = mean_loss(student["prediction_logits"], inputs["labels"])
    labels = counts.labels.to(loss.device)
    return [LossTerm(torch.where(labels > 0, loss * labels, 0.0), "labels"), *terms]


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of logits (..., classes) over labels (...), 0 if all labels are -100."""
    keep = labels != IGNORED_LABEL
    total = functional.cross_entropy(precise(logits[keep]), labels[keep], reduction="sum")
    return total / keep.sum().clamp(min=1)


def logits_terms(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Any],
    inputs: Mapping[str, Any],
    temperature: float,
    problem_type: str | None,
) -> list[LossTerm]:
    """Compare the logits of student and teacher (Hinton et al. 2015, arXiv:1503.02531).

    The head decides the distance. Classes: T^2 KL(teacher || student), T being the temperature. Multi-label:
    the same for each label, averaged. Regression: squared error. Tokens: T^2 KL at each non-padding token; in
    encoder-decoders, at each label. Question answering: T^2 KL over positions, the mean of start and end.

    Args:
        student: The student's outputs by name, with gradients.
        teacher: The teacher's outputs by name; logits of tokens may be `Largest`.
        inputs: The micro-batch.
        temperature: T, above 0.
        problem_type: That of the student's configuration.

    Raises:
        ValueError: The outputs cannot be compared.
    """
    if "start_logits" in student:
        return [_answer_term(student, teacher, inputs, temperature)]
    if "prediction_logits" in student:
        return _pretraining_terms(student, teacher, inputs, temperature)
    pair = _pair(student, teacher, "logits")
    shape = pair[0].shape
    if is_discriminator(student):
        return [LossTerm(bernoulli(*pair, temperature, fitting_mask(shape, inputs)), "tokens")]
    if len(shape) == 3:
        if "encoder_last_hidden_state" in student:
            keep = label_mask(shape[:2], inputs)
            return [LossTerm(categorical(*pair, temperature, keep), "labels")]
        return [_token_term(*pair, inputs, temperature)]
    return [_sequence_term(*pair, inputs, temperature, problem_type)]


def _pretraining_terms(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Any],
    inputs: Mapping[str, Any],
    temperature: float,
) -> list[LossTerm]:
    terms = [_token_term(*_pair(student, teacher, "prediction_logits"), inputs, temperature)]
    for head in _SENTENCE_HEADS:
        if head in student:
            terms.append(LossTerm(categorical(*_pair(student, teacher, head), temperature), "sequences"))
    return terms


def _token_term(
    student: Tensor, teacher: Tensor | Largest, inputs: Mapping[str, Any], temperature: float
) -> LossTerm:
    total = categorical(student, teacher, temperature, fitting_mask(student.shape[:2], inputs))
    return position_term(total, student.shape[1], inputs)


def _answer_term(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Any],
    inputs: Mapping[str, Any],
    temperature: float,
) -> LossTerm:
    def divergence(name: str) -> Tensor:
        pair = _pair(student, teacher, name)
        keep = fitting_mask(pair[0].shape, inputs)
        if keep is not None:
            first, second = (logits.masked_fill(~keep, torch.finfo(logits.dtype).min) for logits in pair)
            pair = first, second
        return categorical(*pair, temperature)

    return LossTerm((divergence("start_logits") + divergence("end_logits")) / 2, "sequences")


def _sequence_term(
    student: Tensor,
    teacher: Tensor,
    inputs: Mapping[str, Any],
    temperature: float,
    problem_type: str | None,
) -> LossTerm:
    if student.dim() != 2:
        raise ValueError(
            f"logits are (batch, classes) or (batch, length, vocabulary), got shape {tuple(student.shape)}; "
            "use a recipe without distillation"
        )
    outputs = student.shape[1]
    if problem_type == "regression" or outputs == 1:
        return LossTerm((precise(student) - precise(teacher.detach())).square().sum() / outputs, "sequences")
    if problem_type == "multi_label_classification" or _has_float_labels(inputs):
        return LossTerm(bernoulli(student, teacher, temperature) / outputs, "sequences")
    return LossTerm(categorical(student, teacher, temperature), "sequences")


def _pair(student: Mapping[str, Tensor], teacher: Mapping[str, Any], name: str) -> tuple[Tensor, Any]:
    for role, output in (("student", student), ("teacher", teacher)):
        if name not in output:
            raise ValueError(
                f"distillation needs {name} of both models, but the {role} returned {sorted(output)}; "
                "give both the same kind of head"
            )
    shapes = tuple(student[name].shape), tuple(teacher[name].shape)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the student's {name} have shape {shapes[0]}, the teacher's {shapes[1]}; take a teacher with "
            "the same labels and the same vocabulary (resize_token_embeddings evens out padding)"
        )
    return student[name], teacher[name]


def position_term(total: Tensor, length: int, inputs: Mapping[str, Any]) -> LossTerm:
    """Return a sum over positions as a term in tokens, or in sequences for a batch without tokens."""
    return LossTerm(total, "tokens") if has_tokens(inputs) else LossTerm(total / length, "sequences")


def is_discriminator(output: Mapping[str, Tensor]) -> bool:
    """Return whether logits (batch, length) are of replaced tokens (ELECTRA), by the type of the output."""
    return type(output).__name__.endswith("ForPreTrainingOutput") and "logits" in output


def _has_float_labels(inputs: Mapping[str, Any]) -> bool:
    labels = inputs.get("labels")
    return labels is not None and labels.dim() == 2 and labels.is_floating_point()


def add_up(values: Iterable[Tensor]) -> Tensor:
    """Return the sum of at least one tensor, added in order."""
    return reduce(add, values)


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor as float32; float64 stays float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
