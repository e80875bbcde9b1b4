"""Questions with contexts and answers: find their columns, read the answers, check the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Value

# The column with the number of the row that a window was made from.
ROW = "row"

_USUAL_NAMES = {
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
}
_ANSWER = {"text", "answer_start"}


# A text with the index of its first character in the context, None if it is unknown.
TrueAnswer = tuple[str, int | None]


@dataclass(frozen=True)
class QuestionColumns:
    """The columns of a data set; without `answers`, predictions cannot be scored."""

    question: str
    context: str
    answers: str | None

    @property
    def names(self) -> list[str]:
        return [self.question, self.context, *([self.answers] if self.answers is not None else [])]


def question_columns(
    rows: Dataset,
    question: str | None = None,
    context: str | None = None,
    answers: str | None = None,
    answered: bool = True,
) -> QuestionColumns:
    """Return the columns of questions, contexts and answers.

    Questions and contexts are strings. Answers are `{"text": [...], "answer_start": [...]}` or lists of such
    pairs; `answer_start` is the index of the text's first character in the context.

    Args:
        rows: The data set.
        question: The column of questions; by default `question` or `query`.
        context: The column of contexts; by default `context`, `passage` or `paragraph`.
        answers: The column of answers; by default `answers` or `answer`.
        answered: Whether answers are needed; if not, their column is left out.

    Raises:
        ValueError: A column is missing or holds another type.
    """
    found = QuestionColumns(
        question=_column(rows, "question", question),
        context=_column(rows, "context", context),
        answers=_column(rows, "answers", answers) if answered else None,
    )
    for column in (found.question, found.context):
        feature = rows.features[column]
        if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
            raise ValueError(f"column {column!r} holds {feature}, not text; name another column")
    if found.answers is not None and not _holds_answers(rows.features[found.answers]):
        raise ValueError(
            f"column {found.answers!r} holds {rows.features[found.answers]}; an answer is a text with its "
            'place in the context, such as {"text": ["in Paris"], "answer_start": [17]}, both lists empty '
            "for an unanswerable question"
        )
    return found


def numbered(rows: Dataset, columns: QuestionColumns) -> Dataset:
    """Return these columns and one of row numbers, which windows inherit from their row."""
    if not len(rows):
        raise ValueError("the data has no rows, so no questions; give other data, or more samples of it")
    return rows.select_columns(columns.names).add_column(ROW, np.arange(len(rows)))


def question_ids(rows: Dataset) -> list[str]:
    """Return the column `id` as strings, or the row numbers without one."""
    names = [str(name) for name in (rows["id"] if "id" in rows.column_names else range(len(rows)))]
    doubles = len(names) - len(set(names))
    if doubles:
        raise ValueError(
            f"{doubles} of {len(names)} questions have the id of another one, and answers are matched by id; "
            "make the ids differ, or remove the column 'id'"
        )
    return names


def true_answers(value: Any) -> list[TrueAnswer]:
    """Return the answers in one value of the column of answers.

    Missing texts are left out. Raises `ValueError` if texts and indices do not match.
    """
    if value is None:
        return []
    if isinstance(value, Mapping):
        texts, starts = value["text"] or [], value["answer_start"] or []
    else:
        texts, starts = [pair["text"] for pair in value], [pair["answer_start"] for pair in value]
    if len(texts) != len(starts) or any(start is not None and start != int(start) for start in starts):
        raise ValueError(
            f"answers {texts!r} are at {starts!r}; every text needs its answer_start, a whole number"
        )
    pairs = zip(texts, starts, strict=True)
    return [(text, start if start is None else int(start)) for text, start in pairs if text is not None]


def require_answers(rows: Dataset, columns: QuestionColumns) -> None:
    """Raise `ValueError` unless every question has a true answer."""
    values = rows[columns.answers] if columns.answers is not None else [None] * len(rows)
    without = sum(not true_answers(value) for value in values)
    if without:
        raise ValueError(
            f"{without} of {len(rows)} questions have no answer; set version_2_with_negative to allow "
            "unanswerable questions, or remove them"
        )


def find_span(context: str | None, answers: list[TrueAnswer]) -> tuple[int, int] | None:
    """Return the range of characters of the first answer that the context holds at its `answer_start`.

    White space around the answer is left out. None if no answer is at its index or has other characters.
    """
    for text, start in answers:
        bare = (text or "").strip()
        if bare and start is not None and start >= 0 and (context or "").startswith(text, start):
            first = start + text.index(bare)
            return first, first + len(bare)
    return None


def _column(rows: Dataset, kind: str, chosen: str | None) -> str:
    names = (chosen,) if chosen is not None else _USUAL_NAMES[kind]
    for name in names:
        if name in rows.column_names:
            return name
    raise ValueError(
        f"column {' or '.join(map(repr, names))} is missing among {rows.column_names}; "
        f"name the column of the {kind}"
    )


def _holds_answers(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return feature.keys() >= _ANSWER and all(hasattr(feature[name], "feature") for name in _ANSWER)
    inner = getattr(feature, "feature", None)
    return isinstance(inner, Mapping) and inner.keys() >= _ANSWER
