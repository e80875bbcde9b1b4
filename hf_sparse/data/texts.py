"""Text classification data: the columns of text, their tokens, the classes and their labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hf_sparse.data.glue import glue_task


def text_columns(
    rows: Dataset, task: str | None = None, chosen: Sequence[str] = (), label: str = "label"
) -> tuple[str, ...]:
    """Return the one or two columns of text.

    Args:
        rows: The data set.
        task: A GLUE task, whose columns are used unless others are chosen.
        chosen: One or two columns. Without task or choice: `sentence1` and `sentence2`, else `text`, else the
            first two columns of strings.
        label: The label column, which is never guessed.

    Raises:
        ValueError: A column is missing or does not hold strings.
    """
    wanted = tuple(chosen) or (() if task is None else glue_task(task).columns)
    missing = [column for column in wanted if column not in rows.column_names]
    if missing or len(wanted) > 2:
        reason = (
            f"text column {missing} is missing" if missing else f"a text has 1 or 2 columns, not {wanted}"
        )
        raise ValueError(f"{reason}; choose among {rows.column_names}")
    for column in wanted:
        if not _is_text(rows.features[column]):
            held = getattr(rows.features[column], "dtype", type(rows.features[column]).__name__)
            raise ValueError(f"column {column!r} holds {held}, not text; choose among {rows.column_names}")
    if wanted:
        return wanted
    strings = [column for column, feature in rows.features.items() if column != label and _is_text(feature)]
    if {"sentence1", "sentence2"} <= set(strings):
        return "sentence1", "sentence2"
    if "text" in strings:
        return ("text",)
    if not strings:
        raise ValueError(f"none of the columns {rows.column_names} holds strings; add a column of text")
    return tuple(strings[:2])


def text_encoder(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[str], max_length: int, pad: bool = False
) -> Callable[[Mapping[str, Sequence[str | None]]], dict[str, list[list[int]]]]:
    """Return a function that tokenizes a batch of rows, for `Dataset.map(..., batched=True)`.

    Args:
        tokenizer: The model's tokenizer.
        columns: The one or two text columns. A missing text counts as empty.
        max_length: Texts are truncated to this number of tokens.
        pad: Also pad texts to `max_length`.
    """

    def encode(batch: Mapping[str, Sequence[str | None]]) -> dict[str, list[list[int]]]:
        texts = [[text or "" for text in batch[column]] for column in columns]
        padding = "max_length" if pad else False
        return dict(tokenizer(*texts, truncation=True, max_length=max_length, padding=padding))

    return encode


@dataclass(frozen=True)
class Labels:
    """Class names, class 0 first; empty for a regression."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"class names must differ from each other, got {self.names}; rename duplicates")

    @property
    def regression(self) -> bool:
        return not self.names

    @property
    def outputs(self) -> int:
        """Number of outputs of the model for a text."""
        return max(1, len(self.names))

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    def write_to(self, config: PreTrainedConfig) -> None:
        """Write the classes into the configuration of a model."""
        config.num_labels = self.outputs
        config.problem_type = "regression" if self.regression else "single_label_classification"
        if not self.regression:
            config.id2label = self.id2label
            config.label2id = {name: i for i, name in self.id2label.items()}

    def in_order_of(self, id2label: Mapping[int, str]) -> "Labels":
        """Return the labels in the order of a model with the same names; else return them unchanged."""
        places = {name.lower(): place for place, name in id2label.items()}
        if places.keys() != {name.lower() for name in self.names}:
            return self
        return Labels(tuple(sorted(self.names, key=lambda name: places[name.lower()])))


def find_labels(rows: Dataset, column: str = "label", task: str | None = None) -> Labels:
    """Return the classes of a label column.

    Args:
        rows: The data set.
        column: The label column.
        task: A GLUE task, whose class names are returned in their order. Without a task, they are the names
            of the column's `ClassLabel` type, or its sorted strings or integers; floats mean a regression.

    Raises:
        ValueError: The column is missing, holds another type, or contradicts the task.
    """
    feature = _label_feature(rows, column)
    if task is not None:
        labels = Labels(glue_task(task).labels)
        if isinstance(feature, ClassLabel) and set(feature.names) != set(labels.names):
            raise ValueError(
                f"{task} has the classes {labels.names}, but column {column!r} {tuple(feature.names)}; "
                "rename them or leave the task out"
            )
        return labels
    if isinstance(feature, ClassLabel):
        return Labels(tuple(feature.names))
    return Labels(()) if feature.dtype.startswith("float") else _labels_among(rows.unique(column), column)


def label_encoder(
    rows: Dataset, column: str, labels: Labels, task: str | None = None
) -> Callable[[object], int | float]:
    """Return a function from a value of the label column to its class in `labels`, or to its float."""
    names = _names_of_integers(_label_feature(rows, column), task)
    place = {name: i for i, name in enumerate(labels.names)}

    def encode(value: object) -> int | float:
        if labels.regression and isinstance(value, int | float):
            return float(value)
        name = names.get(value, str(value))
        if labels.regression or name not in place:
            wanted = "a number" if labels.regression else f"one of {labels.names}"
            raise ValueError(
                f"label {value!r} in column {column!r} is not {wanted}; correct that row or remove it"
            )
        return place[name]

    return encode


def _is_text(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _label_feature(rows: Dataset, column: str) -> ClassLabel | Value:
    if column not in rows.column_names:
        raise ValueError(f"label column {column!r} is missing among {rows.column_names}; name the one to use")
    feature = rows.features[column]
    if not isinstance(feature, ClassLabel | Value):
        raise ValueError(
            f"label column {column!r} holds {feature}; a text has one label, a string or a number"
        )
    return feature


def _labels_among(values: list[Any], column: str) -> Labels:
    if None in values:
        raise ValueError(f"label column {column!r} has rows without a label; remove them")
    if len(values) < 2:
        raise ValueError(
            f"label column {column!r} holds only {values}; a classification has at least 2 classes"
        )
    return Labels(tuple(str(value) for value in sorted(values)))


def _names_of_integers(feature: ClassLabel | Value, task: str | None) -> dict[object, str]:
    if isinstance(feature, ClassLabel):
        return dict(enumerate(feature.names))
    return dict(enumerate(glue_task(task).labels)) if task is not None else {}
