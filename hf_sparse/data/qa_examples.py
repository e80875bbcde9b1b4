"""Questions about a text with their answers: in which columns they are, what is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Value

# The column that says from which row something was made.
ROW = "row"

_USUAL_NAMES = {
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
}
_ANSWER = {"text", "answer_start"}


@dataclass(frozen=True)
class QuestionColumns:
    """The columns of a data set; without `answers` its questions can be answered but not scored."""

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
    """Find the columns: the chosen ones, or else those of the usual names; `answered` wants that of answers.

    Raises `ValueError` where a column is missing or holds something else: questions and contexts are strings,
    answers `{"text": [...], "answer_start": [...]}` or lists of such pairs, `answer_start` being the index of
    the text's first character in the context.
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
            "where there is none"
        )
    return found


def numbered(rows: Dataset, columns: QuestionColumns) -> Dataset:
    """Keep the columns alone, with one of row numbers that is copied to everything made of a row."""
    if not len(rows):
        raise ValueError(
            "there are no questions, as the data has no rows; give other data, or more samples of it"
        )
    return rows.select_columns(columns.names).add_column(ROW, np.arange(len(rows)))


def question_ids(rows: Dataset) -> list[str]:
    """Answer the column `id` as strings, or the numbers of the rows if there is none."""
    names = [str(name) for name in (rows["id"] if "id" in rows.column_names else range(len(rows)))]
    doubles = len(names) - len(set(names))
    if doubles:
        raise ValueError(
            f"{doubles} of {len(names)} questions have the id of another one, and answers go by it; "
            "make the ids differ, or remove the column 'id'"
        )
    return names


def true_answers(value: Any) -> list[tuple[str, int]]:
    """Answer the texts of one value in the column of answers, each with the index of its first character.

    Missing texts are left out. Raises `ValueError` where texts and places do not match.
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
    without = sum(not true_answers(value) for value in rows[columns.answers])
    if without:
        raise ValueError(
            f"{without} of {len(rows)} questions have no answer; set version_2_with_negative, so that "
            "finding none may be right, or remove them"
        )


def find_span(context: str | None, answers: list[tuple[str, int]]) -> tuple[int, int] | None:
    """Find the first answer that is where it should be: its characters' range, less white space around it.

    None where no answer is: its text is not at its `answer_start`, or is nothing but white space.
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
        f"there is no column {' or '.join(map(repr, names))} among {rows.column_names}; "
        f"name the one of the {kind}"
    )


def _holds_answers(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return feature.keys() >= _ANSWER and all(hasattr(feature[name], "feature") for name in _ANSWER)
    inner = getattr(feature, "feature", None)
    return isinstance(inner, Mapping) and inner.keys() >= _ANSWER
