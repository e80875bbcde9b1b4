"""The windows of a context, and the positions of answers in them."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hf_sparse.data.qa_examples import numbered, question_columns
from hf_sparse.data.qa_features import (
    Cutting,
    QuestionSet,
    Window,
    evaluation_encoder,
    report_left_out,
    training_encoder,
)
from tests.data.tiny_tokenizers import KINDS, bert, gpt, xlnet

Row = tuple[str, str, Sequence[tuple[str, int]]]
CONTEXT = "the big cat sat on a mat in paris . the cat , who sat on the mat ."


def table(*rows: Row) -> Dataset:
    answers = [
        {"text": [text for text, _ in row[2]], "answer_start": [at for _, at in row[2]]} for row in rows
    ]
    return Dataset.from_dict(
        {"question": [row[0] for row in rows], "context": [row[1] for row in rows], "answers": answers}
    )


def encode(encoder: Any, cutting: Cutting, data: Dataset) -> dict[str, list[Any]]:
    columns = question_columns(data)
    return encoder(cutting, columns)(numbered(data, columns)[:])


def asked(context: str, answer: str, question: str = "who sat ?") -> Row:
    return question, context, [(answer, context.index(answer))]


def test_a_context_that_fits_is_one_window_with_the_answer_marked() -> None:
    windows = encode(training_encoder, Cutting(bert(), 16, 2), table(asked("the cat sat .", "the cat")))
    assert windows["input_ids"] == [[2, 5, 6, 16, 3, 8, 10, 6, 17, 3]]
    assert windows["token_type_ids"] == [[0] * 5 + [1] * 5]
    assert (windows["start_positions"], windows["end_positions"], windows["row"]) == ([5], [6], [0])


def test_a_window_without_all_of_the_answer_is_labeled_with_cls() -> None:
    windows = encode(training_encoder, Cutting(bert(), 13, 3), table(asked(CONTEXT, "in paris")))
    texts = [bert().decode(ids[5:]).split(" [SEP]")[0] for ids in windows["input_ids"]]
    shown = ["in paris" in text for text in texts]
    assert len(texts) > 2 and sum(shown) == 1 and any("in" in text.split() for text in texts)
    marks = zip(windows["start_positions"], windows["end_positions"], strict=True)
    for ids, text, (start, end) in zip(windows["input_ids"], texts, marks, strict=True):
        assert bert().decode(ids[start : end + 1]) == ("in paris" if "in paris" in text else "[CLS]")


def test_neighboring_windows_share_the_stride() -> None:
    windows = encode(evaluation_encoder, Cutting(bert(), 13, 3), table(asked(CONTEXT, "cat")))
    places = [[first for first, end in zip(*pair, strict=True) if end] for pair in characters(windows)]
    assert all(ours[-3:] == theirs[:3] for ours, theirs in zip(places, places[1:], strict=False))
    assert places[0][0] == 0 and max(map(len, windows["input_ids"])) == 13


def characters(windows: dict[str, list[Any]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(windows["first"], windows["end"], strict=True))


def test_tokens_stand_for_characters_of_the_context_alone() -> None:
    windows = encode(evaluation_encoder, Cutting(bert(), 16, 2), table(asked("the  cats .", "cats")))
    assert windows["first"][0].tolist() == [0, 0, 0, 0, 0, 0, 5, 8, 10, 0]
    assert windows["end"][0].tolist() == [0, 0, 0, 0, 0, 3, 8, 9, 11, 0]


def test_tokens_of_white_space_stand_for_nothing() -> None:
    windows = encode(evaluation_encoder, Cutting(gpt(), 64, 2), table(asked("a  \n\u00a0 cat", "cat")))
    first, end = characters(windows)[0]
    assert [(a, b) for a, b in zip(first, end, strict=True) if b] == [(0, 1), (5, 9)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_is_cls_or_bos_or_the_first_token(kind: str) -> None:
    tokenizer = KINDS[kind]()
    windows = encode(evaluation_encoder, Cutting(tokenizer, 60, 2), table(asked("the cat", "cat")))
    ids, mask = windows["input_ids"][0], windows["attention_mask"][0]
    place = windows["no_answer"][0]
    assert mask[place] == 1 and windows["end"][0][place] == 0
    if "gpt" in kind:
        assert place == mask.index(1) and tokenizer.decode(ids[place]) == "w"
    else:
        assert ids[place] == 2


def test_a_special_token_written_in_a_text_is_not_taken_for_no_answer() -> None:
    data = table(asked("[CLS] the cat", "cat", "[CLS]?"))
    windows = encode(evaluation_encoder, Cutting(xlnet(), 30, 2), data)
    assert windows["input_ids"][0].count(2) == 3 and windows["no_answer"] == [29]


ANSWER_WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "mat.", "Paris,", "é", "😀", "naïve", "東京", "x"]),
    min_size=1,
    max_size=4,
)
FILLING = st.lists(
    st.sampled_from(["the", "cat", "on", "mat.", " ", "\n", "é", "😀😀", "東京", "(x)"]), max_size=12
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(FILLING, ANSWER_WORDS, FILLING), min_size=1, max_size=3), st.booleans())
def test_the_marked_tokens_are_the_answer(
    kind: str, parts: list[tuple[list[str], list[str], list[str]]], pad: bool
) -> None:
    rows = []
    for before, answer, after in parts:
        context = " ".join([*before, *answer, *after])
        start = len(" ".join([*before, ""]))
        rows.append(("who?", context, [(" ".join(answer), start)]))
    cutting = Cutting(KINDS[kind](), 80, 45, pad)
    labeled = encode(training_encoder, cutting, table(*rows))
    plain = encode(evaluation_encoder, cutting, table(*rows))
    assert labeled["input_ids"] == plain["input_ids"] and set(labeled["row"]) == set(range(len(rows)))
    found = set()
    for i, row in enumerate(labeled["row"]):
        start, end = labeled["start_positions"][i], labeled["end_positions"][i]
        (text, at), context = rows[row][2][0], rows[row][1]
        if start != plain["no_answer"][i]:
            found.add(row)
            assert context[plain["first"][i][start] : plain["end"][i][end]].strip() == text
        else:
            used = plain["end"][i] > plain["first"][i]
            first, last = plain["first"][i][used][0], plain["end"][i][used][-1]
            assert start == end and not (first <= at and at + len(text) <= last)
    assert found == set(range(len(rows)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "left" in kind and "cut" not in kind])
def test_where_padding_is_on_the_left_windows_are_padded_at_once(kind: str) -> None:
    tokenizer = KINDS[kind]()
    data = table(asked("the cat", "cat"), asked("a mat .", "mat", "where ?"))
    windows = encode(training_encoder, Cutting(tokenizer, 60, 2), data)
    assert {len(ids) for ids in windows["input_ids"]} == {60}
    for ids, start, end in zip(
        windows["input_ids"], windows["start_positions"], windows["end_positions"], strict=True
    ):
        assert tokenizer.decode(ids[start : end + 1]).strip() in ("cat", "mat")


def test_questions_without_an_answer_are_labeled_with_cls() -> None:
    windows = encode(training_encoder, Cutting(bert(), 13, 3), table(("who ?", CONTEXT, [])))
    assert len(windows["row"]) > 2 and set(windows["start_positions"] + windows["end_positions"]) == {0}


def test_misplaced_answers_are_left_out_with_their_count(caplog: pytest.LogCaptureFixture) -> None:
    data = table(
        asked("the cat", "cat"),
        ("who ?", "the cat", [("cat", 3)]),
        # Five words, of which no window has room for more than four.
        asked("the big cat sat on the mat", "big cat sat on the"),
        ("who ?", "the cat", []),
        ("who ?", "the cat", [("dog", 0), ("the", 0)]),
    )
    windows = encode(training_encoder, Cutting(bert(), 10, 3), data)
    assert sorted(set(windows["row"])) == [0, 3, 4]
    with caplog.at_level(logging.WARNING):
        report_left_out(data, Dataset.from_dict(windows))
    assert "2 of 5 questions are left out of training: none of their answers is" in caplog.text


def test_training_on_nothing_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    data = table(("who ?", "the cat", [("cat", 3)]))
    windows = Dataset.from_dict(encode(training_encoder, Cutting(bert(), 16, 3), data))
    with pytest.raises(ValueError, match="none of 1 questions has an answer that is at its answer_start"):
        report_left_out(data, windows)
    whole = table(asked("the cat", "cat"))
    report_left_out(whole, Dataset.from_dict(encode(training_encoder, Cutting(bert(), 16, 3), whole)))
    assert caplog.text == ""


def test_missing_texts_are_empty() -> None:
    windows = encode(evaluation_encoder, Cutting(bert(), 16, 2), table((None, None, []), ("who", "the", [])))
    assert windows["input_ids"][0] == [2, 3, 3] and windows["row"] == [0, 1]


def test_spaces_around_a_question_are_no_tokens() -> None:
    windows = encode(
        evaluation_encoder, Cutting(gpt(), 12, 2), table(asked("the cat", "cat", " " * 90 + "who"))
    )
    assert gpt().decode(windows["input_ids"][0]).startswith("who")


@pytest.mark.parametrize(("length", "stride", "room"), [(11, 5, 5), (11, 9, 5), (5, 0, 0)])
def test_a_stride_that_leaves_no_context_is_refused(length: int, stride: int, room: int) -> None:
    data = table(asked("the cat", "cat", "who"), asked("the cat", "cat", "who sat ?"))
    with pytest.raises(
        ValueError,
        match=f"of 3 tokens leaves room for {room} tokens .* doc_stride {stride} must be less",
    ):
        encode(evaluation_encoder, Cutting(bert(), length, stride), data)


def test_the_largest_stride_that_is_not_refused_works() -> None:
    windows = encode(evaluation_encoder, Cutting(bert(), 11, 4), table(asked(CONTEXT, "cat")))
    assert len(windows["row"]) == len(CONTEXT.split()) - 4


def test_bad_settings_are_refused() -> None:
    class Slow(PreTrainedTokenizerFast):
        is_fast = False

    with pytest.raises(ValueError, match="Slow does not map tokens to characters; take the fast tokenizer"):
        Cutting(Slow(tokenizer_object=gpt().backend_tokenizer), 16, 2)
    with pytest.raises(ValueError, match="doc_stride is a number of tokens, at least 0, got -1"):
        Cutting(bert(), 16, -1)


@pytest.mark.parametrize(
    ("first", "end", "tokens"),
    [
        (0, 3, (1, 1)),
        (0, 7, (1, 2)),
        (5, 6, (2, 2)),
        (4, 9, (2, 3)),
        (3, 4, None),
        (4, 10, None),
    ],
)
def test_a_range_of_characters_is_found_in_its_tokens(
    first: int, end: int, tokens: tuple[int, int] | None
) -> None:
    window = Window(0, np.array([0, 0, 4, 8, 0]), np.array([0, 3, 7, 9, 0]), 0)
    assert window.tokens_of(first, end) == tokens


def test_a_set_of_questions_gives_the_model_its_inputs_alone() -> None:
    data = table(asked(CONTEXT, "cat"), asked("the mat", "mat")).add_column("id", ["x", "y"])
    columns = question_columns(data)
    windows = Dataset.from_dict(encode(evaluation_encoder, Cutting(bert(), 13, 3), data))
    questions = QuestionSet(data, windows, columns)
    assert questions.ids == ["x", "y"] and questions.contexts == [CONTEXT, "the mat"]
    assert questions.answers == [[("cat", 8)], [("mat", 4)]]
    assert questions.first.shape == questions.end.shape == (len(questions), 13)
    assert questions.row.tolist() == [0] * (len(questions) - 1) + [1]
    assert questions.end[-1].tolist() == [0, 0, 0, 0, 0, 3, 7, 0, 0, 0, 0, 0, 0]
    assert set(questions[0]) == {"input_ids", "token_type_ids", "attention_mask"}
    assert questions.__getitems__([0, 1]) == [questions[0], questions[1]]
