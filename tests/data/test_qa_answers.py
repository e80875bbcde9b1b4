"""Answers from logits, compared with a search through every part of the context."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.data.qa_answers import AnswerFinder
from hf_sparse.data.qa_examples import numbered, question_columns
from hf_sparse.data.qa_features import Cutting, QuestionSet, evaluation_encoder
from tests.data.tiny_tokenizers import KINDS

CONTEXTS = ["the big cat sat on a mat in paris .", "a mat", "", "the cats sat , who ? in paris on the mat"]


def question_set(
    contexts: Sequence[str], kind: str = "bert", length: int = 11, stride: int = 4
) -> QuestionSet:
    rows = Dataset.from_dict({"question": ["who"] * len(contexts), "context": list(contexts)})
    columns = question_columns(rows, answered=False)
    encode = evaluation_encoder(Cutting(KINDS[kind](), length, stride), columns)
    return QuestionSet(rows, Dataset.from_dict(encode(numbered(rows, columns)[:])), columns)


def logits(questions: QuestionSet, seed: int, extra: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return random logits, with `extra` columns beyond the tokens as for padding."""
    width = questions.first.shape[1] + extra
    draw = np.random.default_rng(seed).normal(size=(2, len(questions), width)).astype(np.float32)
    return draw[0], draw[1]


def set_logits(questions: QuestionSet, **parts: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits with these scores at the first and last token of each part, else 0."""
    starts, ends = (np.zeros(questions.first.shape, dtype=np.float32) for _ in range(2))
    for part, score in parts.items():
        text = part.replace("_", " ")
        for window in range(len(questions)):
            at = questions.contexts[questions.row[window]].find(text)
            used = questions.end[window] > 0
            starts[window, used & (questions.first[window] == at)] = score / 2
            ends[window, used & (questions.end[window] == at + len(text))] = score / 2
    return starts, ends


def search(
    questions: QuestionSet, starts: np.ndarray, ends: np.ndarray, row: int, longest: int
) -> list[tuple[str, float, float]]:
    """Return all parts of a context, the best first, from every pair of tokens in every window."""
    best: dict[tuple[int, int], tuple[float, float]] = {}
    for window in np.flatnonzero(questions.row == row):
        tokens = [
            i
            for i in range(questions.first.shape[1])
            if questions.end[window, i] > questions.first[window, i]
        ]
        for i, j in product(tokens, tokens):
            if i <= j < i + longest:
                place = (int(questions.first[window, i]), int(questions.end[window, j]))
                pair = (float(starts[window, i]), float(ends[window, j]))
                best[place] = max(best.get(place, pair), pair, key=sum)
    ranked = sorted(best.items(), key=lambda item: -sum(item[1]))
    return [(questions.contexts[row][first:end], *pair) for (first, end), pair in ranked]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 40), st.sampled_from([-1.0, 0.0, 1.5]))
def test_the_best_parts_of_the_context_are_found(
    seed: int, longest: int, count: int, threshold: float
) -> None:
    questions = question_set(CONTEXTS)
    starts, ends = logits(questions, seed, extra=seed % 3)
    first_kind = AnswerFinder(False, count, longest).find(questions, starts, ends)
    second_kind = AnswerFinder(True, count, longest, threshold).find(questions, starts, ends)
    for row, (one, two) in enumerate(zip(first_kind, second_kind, strict=True)):
        expected = search(questions, starts, ends, row, longest)[:count]
        null = min(
            ((starts[i, 0], ends[i, 0]) for i in np.flatnonzero(questions.row == row)),
            key=lambda pair: pair[0] + pair[1],
        )
        assert [parts(candidate) for candidate in one.candidates] == expected
        both = sorted([*expected, ("", *map(float, null))], key=lambda candidate: -sum(candidate[1:]))
        assert [parts(candidate) for candidate in two.candidates] == both
        assert [candidate.probability for candidate in two.candidates] == pytest.approx(softmax(both))
        assert one.text == one.best_text == two.best_text == (expected[0][0] if expected else "")
        if expected:
            odds = sum(map(float, null)) - sum(expected[0][1:])
            assert two.null_odds == pytest.approx(odds)
            assert two.text == ("" if odds > threshold else expected[0][0])
        else:
            assert two.text == "" and two.null_odds > 1e30


def parts(candidate: Any) -> tuple[str, float, float]:
    return candidate.text, candidate.start_logit, candidate.end_logit


def softmax(candidates: list[tuple[str, float, float]]) -> list[float]:
    powers = [math.exp(start + end) for _, start, end in candidates]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_found_whatever_the_tokenizer(kind: str) -> None:
    contexts = ["the big cat sat on a mat in paris .", "who ? the cat"]
    questions = question_set(contexts, kind, length=40, stride=12)
    starts, ends = (np.zeros(questions.first.shape, dtype=np.float32) for _ in range(2))
    for window in range(len(questions)):
        text = "in paris" if questions.row[window] == 0 else "the cat"
        at = contexts[questions.row[window]].index(text)
        used = questions.end[window] > questions.first[window]
        starts[window, np.flatnonzero(used & (questions.end[window] > at))[:1]] = 1
        ends[window, np.flatnonzero(used & (questions.end[window] == at + len(text)))] = 1
    found = AnswerFinder(max_answer_length=9).find(questions, starts, ends)
    assert [answer.text for answer in found] == ["in paris", "the cat"]


def test_answers_are_of_at_most_so_many_tokens() -> None:
    questions = question_set(["the big cats sat"], length=16)
    starts, ends = set_logits(questions, the_big_cats=9.0, cat=1.0)
    longest = {n: AnswerFinder(max_answer_length=n).find(questions, starts, ends)[0].text for n in (1, 3, 4)}
    assert longest == {1: "the", 3: "the big cat", 4: "the big cats"}


def test_an_answer_does_not_end_before_it_begins() -> None:
    questions = question_set(["the big cat"], length=16)
    starts, ends = np.zeros((2, *questions.first.shape), dtype=np.float32)
    starts[0, 5], ends[0, 3] = 9, 9
    assert AnswerFinder().find(questions, starts, ends)[0].text in ("the", "cat")


def test_a_part_that_two_windows_find_is_one_candidate_with_its_better_score() -> None:
    questions = question_set([CONTEXTS[0]])
    starts, ends = set_logits(questions, sat=4.0)
    twice = [i for i in range(len(questions)) if starts[i].any()]
    assert len(twice) > 1
    starts[twice[0]] *= 2
    found = AnswerFinder(n_best_size=200).find(questions, starts, ends)[0]
    assert [candidate.start_logit for candidate in found.candidates if candidate.text == "sat"] == [4.0]
    assert len({candidate.text for candidate in found.candidates}) == len(found.candidates)


def test_padding_and_special_tokens_are_no_answers_however_they_score() -> None:
    questions = question_set(["a mat", CONTEXTS[0]])
    starts, ends = set_logits(questions, mat=1.0)
    starts, ends = (
        np.where(np.pad(questions.end, ((0, 0), (0, 2))) > 0, np.pad(part, ((0, 0), (0, 2))), 50)
        for part in (starts, ends)
    )
    assert [answer.text for answer in AnswerFinder().find(questions, starts, ends)] == ["mat", "mat"]


def test_the_threshold_decides_between_an_answer_and_none() -> None:
    questions = question_set(["a mat"])
    starts, ends = set_logits(questions, mat=1.0)
    starts[0, 0] = 3.0
    texts = {}
    for threshold in (1.5, 2.0, 2.5):
        found = AnswerFinder(True, null_score_diff_threshold=threshold).find(questions, starts, ends)[0]
        texts[threshold] = found.text
        assert (found.best_text, found.null_odds, found.candidates[0].text) == ("mat", 2.0, "")
    assert texts == {1.5: "", 2.0: "mat", 2.5: "mat"}


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_passed_over(broken: float) -> None:
    questions = question_set(["the big cat"], length=16)
    starts, ends = set_logits(questions, cat=1.0)
    starts[0, 3] = ends[0, 4] = broken
    assert AnswerFinder().find(questions, starts, ends)[0].text == "cat"
    starts[:], ends[:] = broken, broken
    found = AnswerFinder().find(questions, starts, ends)[0]
    assert (found.text, found.candidates) == ("", ())


def test_sums_of_half_precision_do_not_overflow() -> None:
    questions = question_set(["the cat"], length=16)
    starts, ends = (part.astype(np.float16) for part in set_logits(questions, the=100000.0, cat=120000.0))
    found = AnswerFinder().find(questions, starts, ends)[0]
    assert found.text == "cat" and found.candidates[0].start_logit == 60000


def test_a_long_evaluation_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = question_set(CONTEXTS * 3)
    starts, ends = logits(questions, 7)
    whole = AnswerFinder(True).find(questions, starts, ends)
    monkeypatch.setattr("hf_sparse.data.qa_answers._TOGETHER", 2)
    assert AnswerFinder(True).find(questions, starts, ends) == whole


@pytest.mark.parametrize("name", ["n_best_size", "max_answer_length"])
def test_sizes_below_1_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is at least 1, got 0"):
        AnswerFinder(**{name: 0})


def test_an_empty_context_has_no_candidates() -> None:
    questions = question_set(["", "a mat"])
    found = AnswerFinder().find(questions, *logits(questions, 1))
    assert found[0].text == "" and found[0].candidates == () and found[1].text != ""
