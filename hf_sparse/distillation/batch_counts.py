"""Count a batch in the units that losses are divided by; masks of its tokens and labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Unit = Literal["sequences", "tokens", "labels", "sentences"]
UNITS: tuple[Unit, ...] = get_args(Unit)
IGNORED_LABEL = -100
# Labels of next-sentence heads: whether the second segment of a pair follows the first.
SENTENCE_LABELS = ("next_sentence_label", "sentence_order_label")
_TEXTS = ("input_ids", "inputs_embeds")


@dataclass(frozen=True, eq=False)
class Counts:
    """Sequences, non-padding tokens, labels that enter the loss, sentence labels: int64 (4,) in this order.

    The tensor stays on the device of the batch, so counting does not synchronize. Counts of micro-batches add
    up to those of the batch.
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
        """Return the divisor of a sum in `unit`: the count, at least 1."""
        return self.values[UNITS.index(unit)].clamp(min=1)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.values + other.values)


def count(inputs: Mapping[str, Any], shift_labels: bool) -> Counts:
    """Count one micro-batch.

    Labels are integer labels other than -100, or answers whose start and end both lie in the input. A batch
    with float labels or without labels counts one label for each sequence; the same holds for sentence labels
    and, in a batch without tokens such as images, for tokens.

    Args:
        inputs: The micro-batch by column.
        shift_labels: Leave out the first label, which causal models never predict (see `shifts_labels`).

    Raises:
        ValueError: The batch holds no tensor.
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


def count_items(inputs: Mapping[str, Any], shift_labels: bool) -> Tensor | None:
    """Count the label entries other than -100, as Trainer does for its `num_items_in_batch`.

    Returns None without labels. Unlike `count`, it also counts the entries of float labels.
    """
    labels = inputs.get("labels")
    if inputs.get("shift_labels") is not None:
        labels, shift_labels = inputs["shift_labels"], False
    if not isinstance(labels, Tensor):
        return None
    return (labels[..., 1:] if shift_labels else labels).ne(IGNORED_LABEL).sum()


def has_tokens(inputs: Mapping[str, Any]) -> bool:
    """Return whether a batch consists of tokens, (batch, length); images, for one, do not."""
    return any(inputs.get(name) is not None for name in ("attention_mask", *_TEXTS))


def token_mask(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return the boolean mask (batch, length) of non-padding tokens, None without an attention mask."""
    mask = inputs.get("attention_mask")
    return None if mask is None else mask != 0


def fitting_mask(shape: tuple[int, ...], inputs: Mapping[str, Any]) -> Tensor | None:
    """Return the boolean mask of non-padding tokens, of `shape` (batch, length).

    None without an attention mask. Raises `ValueError` if the attention mask has another shape.
    """
    keep = token_mask(inputs)
    if keep is not None and keep.shape != shape:
        raise ValueError(
            f"attention_mask of shape {tuple(keep.shape)} does not fit positions of shape "
            f"{tuple(shape)}; pass a (batch, length) mask"
        )
    return keep


def label_mask(shape: tuple[int, ...], inputs: Mapping[str, Any]) -> Tensor:
    """Return the boolean mask of decoder positions with a label, of `shape` (batch, length).

    Raises `ValueError` unless the batch has labels of this shape.
    """
    labels = inputs.get("labels")
    if labels is None or labels.shape != shape:
        found = "none" if labels is None else f"shape {tuple(labels.shape)}"
        raise ValueError(
            f"decoder positions are compared where labels of shape {tuple(shape)} are not -100, got {found}; "
            "pass labels, with -100 for padding"
        )
    return labels != IGNORED_LABEL


def _first_tensor(inputs: Mapping[str, Any]) -> Tensor:
    named = (inputs.get(name) for name in _TEXTS)
    tensors = (value for value in (*named, *inputs.values()) if isinstance(value, Tensor) and value.dim())
    first = next(tensors, None)
    if first is None:
        raise ValueError(
            f"cannot count a batch without tensors, got {sorted(inputs)}; check the data collator"
        )
    return first


def _valid_labels(inputs: Mapping[str, Any], shift_labels: bool) -> Tensor | None:
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
