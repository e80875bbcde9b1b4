"""Columns and tokens of the texts of a classification."""

from collections.abc import Callable, Mapping, Sequence

from datasets import Dataset, Value
from transformers import PreTrainedTokenizerBase

from hf_sparse.data.glue import glue_task


def text_columns(
    rows: Dataset, task: str | None = None, chosen: Sequence[str] = (), label: str = "label"
) -> tuple[str, ...]:
    """Return the one or two columns of text: the chosen ones, those of the GLUE task, or a guess.

    The guess is `sentence1` with `sentence2`, else `text` alone, else the first two columns of strings
    beside the label. Raises `ValueError` for a missing column or one without strings.
    """
    wanted = tuple(chosen) or (() if task is None else glue_task(task).columns)
    missing = [column for column in wanted if column not in rows.column_names]
    if missing or len(wanted) > 2:
        reason = (
            f"there is no text column {missing}" if missing else f"a text has 1 or 2 columns, not {wanted}"
        )
        raise ValueError(f"{reason}; choose among {rows.column_names}")
    for column in wanted:
        if not _is_text(rows.features[column]):
            held = getattr(rows.features[column], "dtype", type(rows.features[column]).__name__)
            raise ValueError(f"column {column!r} holds {held}, no text; choose among {rows.column_names}")
    if wanted:
        return wanted
    strings = [column for column, feature in rows.features.items() if column != label and _is_text(feature)]
    if {"sentence1", "sentence2"} <= set(strings):
        return "sentence1", "sentence2"
    if "text" in strings:
        return ("text",)
    if not strings:
        raise ValueError(f"no column of {rows.column_names} holds text; a column of strings is needed")
    return tuple(strings[:2])


def text_encoder(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[str], max_length: int, pad: bool = False
) -> Callable[[Mapping[str, Sequence[str | None]]], dict[str, list[list[int]]]]:
    """Return the function from a batch of rows to tokens, for `Dataset.map(..., batched=True)`.

    Texts are cut to `max_length` tokens and, with `pad`, padded to it. A missing text counts as empty.
    """

    def encode(batch: Mapping[str, Sequence[str | None]]) -> dict[str, list[list[int]]]:
        texts = [[text or "" for text in batch[column]] for column in columns]
        padding = "max_length" if pad else False
        return dict(tokenizer(*texts, truncation=True, max_length=max_length, padding=padding))

    return encode


def _is_text(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")
