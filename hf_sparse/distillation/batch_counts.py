"""What a batch holds, in the units by which losses are divided, and where."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Unit = Literal["sequences", "tokens", "labels", "sentences"]
UNITS: tuple[Unit, ...] = get_args(Unit)
IGNORED_LABEL = -100
# What labels the second segment of a pair, where a model has a head for that.
SENTENCE_LABELS = ("next_sentence_label", "sentence_order_label")
_TEXTS = ("input_ids", "inputs_embeds")


@dataclass(frozen=True, eq=False)
class Counts:
    """Sequences, non-padding tokens, labels that enter the loss, sentence labels: int64 (4,) in this order.

    They stay on the device of the batch, so that counting never waits for it; add those of the micro-batches.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.shape != (len(UNITS),) or self.values.dtype != torch.int64:
            raise ValueError(
                f"counts are an int64 tensor of shape ({len(UNITS)},) holding {', '.join(UNITS)}, "
                f"got {self.values.dtype} of shape {tuple(self.values.shape)}; use count(inputs)"
            )

    @property
    def tokens(self) -> Tensor:
        return self.values[UNITS.index("tokens")]

    @property
    def labels(self) -> Tensor:
        return self.values[UNITS.index("labels")]

    @property
    def sentences(self) -> Tensor:
        return self.values[UNITS.index("sentences")]

    def of(self, unit: Unit) -> Tensor:
        """Return what a sum counted in `unit` is divided by: the count, or 1 where nothing was counted."""
        return self.values[UNITS.index(unit)].clamp(min=1)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.values + other.values)


def count(inputs: Mapping[str, object], shift_labels: bool) -> Counts:
    """Count one micro-batch; `shift_labels` is for causal models, which never predict the first label.

    Labels are integer labels other than -100, or answers whose start and end both lie in the input; without
    either (float labels, none at all) every sequence counts as one. Sentence labels, of pairs of segments,
    likewise. Where there are no tokens, each sequence counts as one. Raises `ValueError` without any tensor.
    """
    first = _first_tensor(inputs)
    values = torch.full((len(UNITS),), len(first), dtype=torch.int64, device=first.device)
    keep = token_mask(inputs)
    if keep is not None:
        values[1] = keep.sum()
    elif has_tokens(inputs):
        values[1] = first.shape[:2].numel()
    valid = _valid_labels(inputs, shift_labels)
    if valid is not None:
        values[2] = valid.sum()
    pairs = next((inputs[name] for name in SENTENCE_LABELS if inputs.get(name) is not None), None)
    if pairs is not None:
        values[3] = (pairs != IGNORED_LABEL).sum()
    return Counts(values)


def count_items(inputs: Mapping[str, object], shift_labels: bool) -> Tensor | None:
    """Count the entries of the labels other than -100, as Trainer does for a loss that divides by them.

    None without labels. Other than `count`, this counts entries of float labels.
    """
    labels = inputs.get("labels")
    if inputs.get("shift_labels") is not None:
        labels, shift_labels = inputs["shift_labels"], False
    if not isinstance(labels, Tensor):
        return None
    return (labels[..., 1:] if shift_labels else labels).ne(IGNORED_LABEL).sum()


def has_tokens(inputs: Mapping[str, object]) -> bool:
    """Say whether a batch is made of tokens; images are not, and their first two sizes are no positions."""
    return any(inputs.get(name) is not None for name in ("attention_mask", *_TEXTS))


def token_mask(inputs: Mapping[str, object]) -> Tensor | None:
    """Return the boolean (batch, length) mask of non-padding tokens, None where nothing is padding."""
    mask = inputs.get("attention_mask")
    return None if mask is None else mask != 0


def fitting_mask(shape: tuple[int, int], inputs: Mapping[str, object]) -> Tensor | None:
    """Return which of (batch, length) positions are not padding, None where all are.

    Raises `ValueError` if the batch has a mask of another shape.
    """
    keep = token_mask(inputs)
    if keep is not None and keep.shape != shape:
        raise ValueError(
            f"attention_mask of shape {tuple(keep.shape)} does not say which of the positions of shape "
            f"{tuple(shape)} are padding; pass a (batch, length) mask"
        )
    return keep


def label_mask(shape: tuple[int, int], inputs: Mapping[str, object]) -> Tensor:
    """Return which of the (batch, length) positions of a decoder have a label.

    Raises `ValueError` unless the batch has labels of this shape.
    """
    labels = inputs.get("labels")
    if labels is None or labels.shape != shape:
        found = "none" if labels is None else f"some of shape {tuple(labels.shape)}"
        raise ValueError(
            f"labels of shape {tuple(shape)} say which positions of a decoder are compared, got {found}; "
            "pass labels, with -100 for padding"
        )
    return labels != IGNORED_LABEL


def _first_tensor(inputs: Mapping[str, object]) -> Tensor:
    named = (inputs.get(name) for name in _TEXTS)
    tensors = (value for value in (*named, *inputs.values()) if isinstance(value, Tensor) and value.dim())
    first = next(tensors, None)
    if first is None:
        raise ValueError(
            f"cannot count a batch without tensors, got {sorted(inputs)}; check the data collator"
        )
    return first


def _valid_labels(inputs: Mapping[str, object], shift_labels: bool) -> Tensor | None:
    if inputs.get("shift_labels") is not None:
        return inputs["shift_labels"] != IGNORED_LABEL
    labels = inputs.get("labels")
    if labels is not None:
        if labels.is_floating_point():
            return None
        return (labels[..., 1:] if shift_labels and labels.dim() > 1 else labels) != IGNORED_LABEL
    if inputs.get("start_positions") is None or inputs.get("end_positions") is None:
        return None
    length = _first_tensor(inputs).shape[1]
    return (inputs["start_positions"] < length) & (inputs["end_positions"] < length)
