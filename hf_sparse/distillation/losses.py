"""The terms of the training loss as sums, so that any split of a batch gives the same gradient."""

from collections.abc import Mapping
from dataclasses import dataclass

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
from hf_sparse.distillation.kl import bernoulli, categorical

__all__ = [
    "Counts",
    "LossTerm",
    "count",
    "logits_terms",
    "mean_loss",
    "position_term",
    "precise",
    "task_terms",
]

# The second head of a pre-training model, with the label that trains it.
_SENTENCE_HEADS = dict(zip(("seq_relationship_logits", "sop_logits"), SENTENCE_LABELS, strict=True))


@dataclass(frozen=True, eq=False)
class LossTerm:
    """A scalar loss summed over a micro-batch; `unit` names the total of the whole batch that divides it."""

    total: Tensor
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in UNITS or self.total.dim():
            raise ValueError(
                f"a loss term is a scalar counted in one of {UNITS}, "
                f"got a tensor of shape {tuple(self.total.shape)} in {self.unit!r}"
            )


def task_terms(
    loss: Tensor, student: Mapping[str, Tensor], inputs: Mapping[str, object], counts: Counts
) -> list[LossTerm]:
    """Turn the mean loss that the model gave for a micro-batch back into sums.

    `counts` are those of this micro-batch. Without any valid label the sum is 0 with zero gradients, although
    the model's mean is not a number then.
    """
    loss = precise(loss)
    if _is_discriminator(student):
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
        # The model's loss is the sum of both heads' means, and that of no sentence labels is not a number.
        loss = mean_loss(student["prediction_logits"], inputs["labels"])
    labels = counts.labels.to(loss.device)
    return [LossTerm(torch.where(labels > 0, loss * labels, 0.0), "labels"), *terms]


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of logits (..., classes) over labels (...), 0 where all are -100."""
    keep = labels != IGNORED_LABEL
    total = functional.cross_entropy(precise(logits[keep]), labels[keep], reduction="sum")
    return total / keep.sum().clamp(min=1)


def logits_terms(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    inputs: Mapping[str, object],
    temperature: float,
    problem_type: str | None,
) -> list[LossTerm]:
    """Compare the outputs of student and teacher, by the kind of head that gave them.

    Classes: T^2 KL. Several labels at once: the same for each label, averaged. Regression: squared error.
    Tokens: T^2 KL at each one that is not padding; of an encoder-decoder, at each one with a label. Answers:
    T^2 KL over positions, halves for start, end.
    `problem_type` is that of the student's configuration. Raises `ValueError` for incomparable outputs.
    """
    if "start_logits" in student:
        return [_answer_term(student, teacher, inputs, temperature)]
    if "prediction_logits" in student:
        return _pretraining_terms(student, teacher, inputs, temperature)
    ours, theirs = _pair(student, teacher, "logits")
    if _is_discriminator(student):
        return [LossTerm(bernoulli(ours, theirs, temperature, fitting_mask(ours.shape, inputs)), "tokens")]
    if ours.dim() == 3:
        if "encoder_last_hidden_state" in student:
            keep = label_mask(ours.shape[:2], inputs)
            return [LossTerm(categorical(ours, theirs, temperature, keep), "labels")]
        return [_token_term(ours, theirs, inputs, temperature)]
    return [_sequence_term(ours, theirs, inputs, temperature, problem_type)]


def _pretraining_terms(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    inputs: Mapping[str, object],
    temperature: float,
) -> list[LossTerm]:
    terms = [_token_term(*_pair(student, teacher, "prediction_logits"), inputs, temperature)]
    for head in _SENTENCE_HEADS:
        if head in student:
            terms.append(LossTerm(categorical(*_pair(student, teacher, head), temperature), "sequences"))
    return terms


def _token_term(ours: Tensor, theirs: Tensor, inputs: Mapping[str, object], temperature: float) -> LossTerm:
    total = categorical(ours, theirs, temperature, fitting_mask(ours.shape[:2], inputs))
    return position_term(total, ours.shape[1], inputs)


def _answer_term(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    inputs: Mapping[str, object],
    temperature: float,
) -> LossTerm:
    def divergence(name: str) -> Tensor:
        ours, theirs = _pair(student, teacher, name)
        keep = fitting_mask(ours.shape, inputs)
        if keep is not None:
            ours, theirs = (
                logits.masked_fill(~keep, torch.finfo(logits.dtype).min) for logits in (ours, theirs)
            )
        return categorical(ours, theirs, temperature)

    return LossTerm((divergence("start_logits") + divergence("end_logits")) / 2, "sequences")


def _sequence_term(
    ours: Tensor, theirs: Tensor, inputs: Mapping[str, object], temperature: float, problem_type: str | None
) -> LossTerm:
    if ours.dim() != 2:
        raise ValueError(
            f"logits are (batch, classes) or (batch, length, vocabulary), got shape {tuple(ours.shape)}; "
            "use a recipe without distillation"
        )
    outputs = ours.shape[1]
    if problem_type == "regression" or outputs == 1:
        return LossTerm((precise(ours) - precise(theirs.detach())).square().sum() / outputs, "sequences")
    if problem_type == "multi_label_classification" or _has_float_labels(inputs):
        return LossTerm(bernoulli(ours, theirs, temperature) / outputs, "sequences")
    return LossTerm(categorical(ours, theirs, temperature), "sequences")


def _pair(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    for who, output in (("student", student), ("teacher", teacher)):
        if name not in output:
            raise ValueError(
                f"distillation needs {name} of both models, but the {who} returned {sorted(output)}; "
                "give both the same kind of head"
            )
    ours, theirs = student[name], teacher[name]
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the student's {name} have shape {tuple(ours.shape)}, the teacher's {tuple(theirs.shape)}; take "
            "a teacher with the same labels, the same vocabulary (resize_token_embeddings evens out padding)"
        )
    return ours, theirs


def position_term(total: Tensor, length: int, inputs: Mapping[str, object]) -> LossTerm:
    """Count what was summed over positions: by tokens or, where a batch has none, as a mean by sequences."""
    return LossTerm(total, "tokens") if has_tokens(inputs) else LossTerm(total / length, "sequences")


def _is_discriminator(output: Mapping[str, Tensor]) -> bool:
    """Tell ELECTRA's replaced-token logits (batch, length) from class logits; only the type does."""
    return type(output).__name__.endswith("ForPreTrainingOutput") and "logits" in output


def _has_float_labels(inputs: Mapping[str, object]) -> bool:
    labels = inputs.get("labels")
    return labels is not None and labels.dim() == 2 and labels.is_floating_point()


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor as float32, or as float64 if it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
