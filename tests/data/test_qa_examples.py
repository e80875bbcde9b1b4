"""The columns of questions, and the data that is refused."""

import re

import pytest
from datasets import Dataset

from hf_sparse.data.qa_examples import (
    QuestionColumns,
    find_span,
    numbered,
    question_columns,
    question_ids,
    require_answers,
    true_answers,
)

PARIS = {"text": ["in Paris"], "answer_start": [8]}
NONE = {"text": [], "answer_start": []}


def rows(**columns: list[object]) -> Dataset:
    usual = {"question": ["where?"], "context": ["the cat in Paris"], "answers": [PARIS]}
    return Dataset.from_dict({name: values for name, values in (usual | columns).items() if values})


def test_columns_are_found_by_their_usual_names() -> None:
    assert question_columns(rows(title=["x"])) == QuestionColumns("question", "context", "answers")
    other = Dataset.from_dict({"query": ["a"], "passage": ["b"], "answer": [PARIS]})
    assert question_columns(other) == QuestionColumns("query", "passage", "answer")


def test_chosen_columns_come_first() -> None:
    table = rows(q=["?"], story=["x"], gold=[PARIS])
    assert question_columns(table, "q", "story", "gold") == QuestionColumns("q", "story", "gold")


def test_answers_are_not_looked_for_where_they_are_not_needed() -> None:
    columns = question_columns(rows(answers=[]), answered=False)
    assert columns.answers is None and columns.names == ["question", "context"]


@pytest.mark.parametrize("kind", ["question", "context", "answers"])
def test_a_missing_column_is_named(kind: str) -> None:
    with pytest.raises(
        ValueError, match=rf"column '{kind}' or .* missing among .*; name the column of the {kind}"
    ):
        question_columns(rows(**{kind: []}))
    with pytest.raises(ValueError, match="column 'x' is missing among"):
        question_columns(rows(), **{kind: "x"})


def test_other_things_than_texts_with_places_are_refused() -> None:
    with pytest.raises(ValueError, match=r"column 'context' holds Value\('int64'\), not text"):
        question_columns(rows(context=[5]))
    for wrong in ("Paris", ["Paris"], {"text": ["Paris"]}, {"text": "Paris", "answer_start": 8}):
        with pytest.raises(ValueError, match="an answer is a text with its place in the context, such as"):
            question_columns(rows(answers=[wrong]))


@pytest.mark.parametrize("form", [PARIS, [{"text": "in Paris", "answer_start": 8}]])
def test_answers_are_read_in_either_form(form: object) -> None:
    table = rows(answers=[form])
    assert true_answers(table[question_columns(table).answers][0]) == [("in Paris", 8)]


def test_no_answer_is_read_from_empty_lists_or_none() -> None:
    assert [true_answers(value) for value in (None, NONE, [], {"text": None, "answer_start": None})] == [
        []
    ] * 4


def test_questions_without_answer_are_counted() -> None:
    two = {name: rows()[name][:] * 2 for name in ("question", "context")}
    table = rows(**two, answers=[PARIS, NONE])
    with pytest.raises(ValueError, match="1 of 2 questions have no answer; set version_2_with_negative"):
        require_answers(table, question_columns(table))
    require_answers(table.select([0]), question_columns(table))


def test_ids_are_strings_or_row_numbers() -> None:
    assert question_ids(rows(id=[7])) == ["7"]
    assert question_ids(Dataset.from_dict({"question": ["a", "b"]})) == ["0", "1"]


def test_an_id_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 questions have the id of another one"):
        question_ids(Dataset.from_dict({"id": ["a", "b", "a"]}))


def test_rows_are_numbered_even_if_the_data_has_such_a_column() -> None:
    table = numbered(rows(row=["x"], title=["y"]), QuestionColumns("question", "context", "answers"))
    assert table.column_names == ["question", "context", "answers", "row"] and table["row"][:] == [0]


def test_data_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="the data has no rows, so no questions"):
        numbered(rows().select([]), QuestionColumns("question", "context", "answers"))


@pytest.mark.parametrize(
    ("answers", "span"),
    [
        ([("in Paris", 8)], (8, 16)),
        ([(" in Paris", 7)], (8, 16)),
        ([("Paris", 10), ("cat", 4)], (4, 7)),
        ([("Paris", 10)], None),
        # Counted from the end, as Python would.
        ([("Paris", -5)], None),
        ([("Paris", None)], None),
        ([("in Paris!", 8)], None),
        ([(None, 8)], None),
        ([("", 3)], None),
        ([(" ", 3)], None),
        ([("in paris", 8)], None),
        ([], None),
    ],
)
def test_an_answer_is_where_its_text_is(answers: list[tuple[str, int]], span: tuple[int, int] | None) -> None:
    assert find_span("the cat in Paris", answers) == span


def test_a_missing_context_has_no_answer() -> None:
    assert find_span(None, [("cat", 0)]) is None


def test_messages_show_how_answers_look() -> None:
    with pytest.raises(ValueError, match=re.escape('{"text": ["in Paris"], "answer_start": [17]}')):
        question_columns(rows(answers=["Paris"]))
