"""Scores equal those of the official SQuAD scripts, implemented here a second time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sparse.metrics.squad import Squad, SquadV2

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


@dataclass(frozen=True)
class Case:
    """A question with its prediction; `doubt` is the probability that it is unanswerable."""

    truths: Sequence[str]
    answer: str
    doubt: float = 0.0


def bare(text: str) -> str:
    for sign in PUNCTUATION:
        text = text.lower().replace(sign, "")
    return re.sub(r"\s+", " ", re.sub(r"\b(?:an|the|a)\b", " ", text)).strip()


def f1(answer: str, truth: str, empties_agree: bool) -> float:
    ours, theirs = bare(answer).split(), bare(truth).split()
    if empties_agree and not (ours and theirs):
        return 1 if ours == theirs else 0
    rest, common = list(theirs), 0
    for word in ours:
        if word in rest:
            rest.remove(word)
            common += 1
    if not common:
        return 0
    precision, recall = common / len(ours), common / len(theirs)
    return (2 * precision * recall) / (precision + recall)


def official_v1(cases: Sequence[Case], answered: Sequence[bool] | None = None) -> dict[str, float]:
    exact_sum = f1_sum = 0
    for case, has_answer in zip(cases, answered or [True] * len(cases), strict=True):
        if has_answer:
            exact_sum += max(bare(case.answer) == bare(truth) for truth in case.truths)
            f1_sum += max(f1(case.answer, truth, False) for truth in case.truths)
    return {"exact_match": 100.0 * exact_sum / len(cases), "f1": 100.0 * f1_sum / len(cases)}


def official_v2(cases: Sequence[Case], threshold: float = 1.0) -> dict[str, float]:
    raw: dict[str, list[float]] = {"exact": [], "f1": []}
    for case in cases:
        truths = [truth for truth in case.truths if bare(truth)] or [""]
        raw["exact"].append(max(int(bare(case.answer) == bare(truth)) for truth in truths))
        raw["f1"].append(max(f1(case.answer, truth, True) for truth in truths))
    groups = {
        "": range(len(cases)),
        "HasAns_": [i for i, case in enumerate(cases) if case.truths],
        "NoAns_": [i for i, case in enumerate(cases) if not case.truths],
    }
    results: dict[str, float] = {}
    for name, values in raw.items():
        final = [
            float(not case.truths) if case.doubt > threshold else value
            for case, value in zip(cases, values, strict=True)
        ]
        for prefix, members in groups.items():
            if members:
                results[prefix + name] = 100.0 * sum(final[i] for i in members) / len(members)
                results[prefix + "total"] = len(members)
        best = running = len(groups["NoAns_"])
        results[f"best_{name}_thresh"] = 0.0
        for i in sorted(range(len(cases)), key=lambda i: cases[i].doubt):
            running += values[i] if cases[i].truths else (-1 if cases[i].answer else 0)
            if running > best:
                best, results[f"best_{name}_thresh"] = running, cases[i].doubt
        results[f"best_{name}"] = 100.0 * best / len(cases)
    return results


def references(cases: Sequence[Case]) -> list[dict[str, object]]:
    return [
        {"id": str(i), "answers": {"text": list(case.truths), "answer_start": [0] * len(case.truths)}}
        for i, case in enumerate(cases)
    ]


def v1(cases: Sequence[Case], answered: Sequence[bool] | None = None) -> dict[str, float]:
    names = [str(i) if has else f"{i} of others" for i, has in enumerate(answered or [True] * len(cases))]
    predictions = [
        {"id": name, "prediction_text": case.answer} for name, case in zip(names, cases, strict=True)
    ]
    return Squad().compute(predictions=predictions, references=references(cases))


def v2(cases: Sequence[Case], **threshold: float) -> dict[str, float]:
    predictions = [
        {"id": str(i), "prediction_text": case.answer, "no_answer_probability": case.doubt}
        for i, case in enumerate(cases)
    ]
    return SquadV2().compute(predictions=predictions, references=references(cases), **threshold)


PIECES = [
    *[
        "a",
        "an",
        "the",
        "The",
        "AN",
        "cat",
        "Cat",
        "cats",
        "dog",
        "1,000",
        "1000",
        "U.S.",
        "us",
        "th.e",
        "-a-",
    ],
    *[
        "a_b",
        "“the”",
        "\u2019s",
        "é",
        "e\u0301",
        "İ",
        "ß",
        "ss",
        "二",
        "…",
        ".",
        "''",
        "\t",
        "\u00a0",
        "\u200b",
        "\n",
    ],
]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=5).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
DOUBTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, -2.0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.builds(Case, st.lists(TEXTS, min_size=1, max_size=3), TEXTS), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_v1_equals_the_official_script(pairs: list[tuple[Case, bool]]) -> None:
    cases, answered = zip(*pairs, strict=True)
    assert v1(cases, answered) == official_v1(cases, answered)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(Case, st.lists(TEXTS, max_size=3), TEXTS, DOUBTS), min_size=1, max_size=8),
    st.sampled_from([1.0, 0.25, -1.0]),
)
def test_v2_equals_the_official_script(cases: list[Case], threshold: float) -> None:
    assert v2(cases, no_answer_threshold=threshold) == official_v2(cases, threshold)


@pytest.mark.parametrize(
    ("truth", "answer", "exact", "f1_score"),
    [
        ("The Cat", "cat", 100, 100),
        ("cat.", "a cat!", 100, 100),
        ("U.S.", "us", 100, 100),
        ("1,000", "1000", 100, 100),
        ("10 May", "May 10", 0, 100),
        ("black  cat\n", " black\tcat", 100, 100),
        ("black\u00a0cat", "black cat", 100, 100),
        # Only the punctuation of ASCII goes; what it parted is joined, what other signs part is not.
        ("cat", "“cat”", 0, 0),
        ("well-known cat", "wellknown cat", 100, 100),
        ("well known cat", "well-known cat", 0, pytest.approx(40)),
        # Punctuation goes before the articles, so that this one is found.
        ("t.h.e cat", "cat", 100, 100),
        # So is what is left of "a_", and a word between signs that stay.
        ("“the” cat", "“ ” cat", 100, 100),
        ("cat a_", "cat", 100, 100),
        # Repeated words count as often as they are in both.
        ("cat cat dog", "cat", 0, 50),
        ("É", "é", 100, 100),
        ("é", "e\u0301", 0, 0),
        ("STRASSE", "straße", 0, 0),
        ("cat", "", 0, 0),
        # Nothing is left of either: equal, but no word in common.
        ("the", "An.", 100, 0),
        ("", "", 100, 0),
    ],
)
def test_v1_of_one_answer(truth: str, answer: str, exact: float, f1_score: float) -> None:
    assert v1([Case([truth], answer)]) == {"exact_match": exact, "f1": f1_score}
    assert official_v1([Case([truth], answer)]) == {"exact_match": exact, "f1": f1_score}


def test_the_best_of_several_true_answers_counts_for_each_score_by_itself() -> None:
    assert v1([Case(["the", "big cat", "cat sat"], "a")]) == {"exact_match": 100, "f1": 0}
    assert v1([Case(["dog", "big cat"], "cat"), Case(["x"], "y")])["f1"] == pytest.approx(100 / 3)


def test_v1_scores_a_missing_prediction_0_with_a_message(caplog: pytest.LogCaptureFixture) -> None:
    cases = [Case(["cat"], "cat"), Case(["dog"], "dog")]
    assert v1(cases, [True, False]) == {"exact_match": 50, "f1": 50}
    assert "1 questions lack a prediction and score 0: ['1']" in caplog.text


def test_predictions_are_found_by_id_not_by_place() -> None:
    predictions = [{"id": "1", "prediction_text": "dog"}, {"id": "0", "prediction_text": "cat"}]
    truths = references([Case(["cat"], ""), Case(["dog"], "")])
    assert Squad().compute(predictions=predictions, references=truths)["exact_match"] == 100


def test_v1_refuses_a_question_without_true_answers() -> None:
    with pytest.raises(ValueError, match="question '0' lacks a true answer; score .* by SquadV2"):
        v1([Case([], "")])


@pytest.mark.parametrize(
    ("truths", "answer", "exact", "f1_score"),
    [
        ([], "", 100, 100),
        ([], "the", 100, 100),
        ([], "cat", 0, 0),
        (["cat"], "", 0, 0),
        (["big cat"], "cat", 0, pytest.approx(200 / 3)),
        # A true answer without words asks for none, unless there is another one.
        (["the"], "", 100, 100),
        (["the", "cat"], "a", 0, 0),
        (["the", "cat"], "cat", 100, 100),
    ],
)
def test_v2_of_one_answer(truths: list[str], answer: str, exact: float, f1_score: float) -> None:
    scores = v2([Case(truths, answer)])
    assert (scores["exact"], scores["f1"], scores["total"]) == (exact, f1_score, 1)
    kind, other = ("HasAns", "NoAns") if truths else ("NoAns", "HasAns")
    assert (scores[f"{kind}_exact"], scores[f"{kind}_total"]) == (exact, 1)
    assert not any(name.startswith(other) for name in scores)


def test_v2_counts_a_question_in_doubt_as_unanswered() -> None:
    cases = [Case(["cat"], "cat", 0.9), Case([], "dog", 0.9), Case(["cat"], "cat", 0.5)]
    scores = v2(cases, no_answer_threshold=0.5)
    assert (scores["HasAns_exact"], scores["NoAns_exact"]) == (50, 100)
    assert v2(cases)["HasAns_exact"] == 100 and v2(cases)["NoAns_exact"] == 0


def test_v2_finds_the_best_threshold() -> None:
    cases = [
        *[Case([], "dog", 3.0), Case(["cat"], "cat", -1.0)],
        *[Case(["big cat"], "cat", 2.0), Case([], "", -2.0)],
    ]
    scores = v2(cases)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (75, -1.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (pytest.approx(100 * (3 + 2 / 3) / 4), 2.0)


def test_v2_refuses_missing_predictions_which_the_official_script_fails_on() -> None:
    predictions = [{"id": "x", "prediction_text": "", "no_answer_probability": 0.0}]
    with pytest.raises(ValueError, match=r"1 questions lack a prediction, such as \['0'\]; give each one"):
        SquadV2().compute(predictions=predictions, references=references([Case([], "")]))


def test_the_order_of_scores_is_that_of_the_official_script() -> None:
    assert list(v2([Case(["a"], "b"), Case([], "")])) == [
        *["exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"],
        *["NoAns_exact", "NoAns_f1", "NoAns_total"],
        *["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"],
    ]
