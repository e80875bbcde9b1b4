"""Scores of extractive question answering, equal to those of the two official SQuAD scripts, in percent.

`Squad` equals evaluate-v1.1.py (Rajpurkar et al. 2016, arXiv:1606.05250), `SquadV2` evaluate-v2.0.py
(Rajpurkar et al. 2018, arXiv:1806.03822). The scripts differ if normalization leaves nothing of an answer,
as of "the": two such answers have an F1 of 0 in the first script and 100 in the second.
"""

import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from hf_sparse.metrics.local import LocalMetric

logger = logging.getLogger(__name__)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TEXT = datasets.Value("string")
_SHOWN = 5

Row = Mapping[str, Any]


class Squad(LocalMetric):
    """Share of answers that equal a true one (`exact_match`), and mean overlap of words (`f1`), in percent.

    Predictions are `{"id", "prediction_text"}`, references `{"id", "answers": {"text", "answer_start"}}`, in
    any order. Among several true answers the best match counts. A question without a prediction scores 0 and
    is named in a warning. `compute` raises `ValueError` for a question without true answers.
    """

    prediction: ClassVar[dict[str, datasets.Value]] = {"id": _TEXT, "prediction_text": _TEXT}

    def _info(self) -> evaluate.MetricInfo:
        answers = {
            "text": datasets.Sequence(_TEXT),
            "answer_start": datasets.Sequence(datasets.Value("int32")),
        }
        features = {"predictions": self.prediction, "references": {"id": _TEXT, "answers": answers}}
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", features=datasets.Features(features)
        )

    def _compute(self, predictions: Sequence[Row], references: Sequence[Row]) -> dict[str, float]:
        answers = {row["id"]: row["prediction_text"] for row in predictions}
        unanswered = [row["id"] for row in references if row["id"] not in answers]
        if unanswered:
            logger.warning(
                "%d questions lack a prediction and score 0: %s", len(unanswered), unanswered[:_SHOWN]
            )
        exact = f1 = 0.0
        # Added one by one like the script; since Python 3.12 sum() rounds differently.
        for row in references:
            if row["id"] in answers:
                truths = _truths(row)
                exact += max(_same(answers[row["id"]], truth) for truth in truths)
                f1 += max(_overlap(answers[row["id"]], truth) for truth in truths)
        return {"exact_match": 100.0 * exact / len(references), "f1": 100.0 * f1 / len(references)}


class SquadV2(Squad):
    """Scores of data with unanswerable questions, whose references lack true answers.

    Predictions have a third value, `no_answer_probability`: a number in any unit that grows with the doubt in
    an answer. Above `no_answer_threshold` the prediction counts as "".

    The result has `exact`, `f1` and `total`; the same for answerable (`HasAns_*`) and unanswerable questions
    (`NoAns_*`), if there are any; and the best scores over all thresholds, `best_exact` at
    `best_exact_thresh` and `best_f1` at `best_f1_thresh`. `compute` raises `ValueError` for a question
    without a prediction.
    """

    prediction: ClassVar[dict[str, datasets.Value]] = Squad.prediction | {
        "no_answer_probability": datasets.Value("float64")
    }

    def _compute(
        self, predictions: Sequence[Row], references: Sequence[Row], no_answer_threshold: float = 1.0
    ) -> dict[str, float]:
        answers = {row["id"]: row["prediction_text"] for row in predictions}
        doubts = {row["id"]: row["no_answer_probability"] for row in predictions}
        truths = {row["id"]: row["answers"]["text"] for row in references}
        missing = [name for name in truths if name not in answers]
        if missing:
            raise ValueError(
                f"{len(missing)} questions lack a prediction, such as {missing[:_SHOWN]}; give each one, "
                'with the text "" where there is no answer'
            )
        raw = {
            "exact": _best_scores(answers, truths, _same),
            "f1": _best_scores(answers, truths, _overlap_or_both_empty),
        }
        groups = {
            "": list(truths),
            "HasAns_": [name for name in truths if truths[name]],
            "NoAns_": [name for name in truths if not truths[name]],
        }
        results: dict[str, float] = {}
        for prefix, names in groups.items():
            if names:
                for score, values in raw.items():
                    final = (
                        float(not truths[name]) if doubts[name] > no_answer_threshold else values[name]
                        for name in names
                    )
                    results[prefix + score] = 100.0 * sum(final) / len(names)
                results[f"{prefix}total"] = len(names)
        for score, values in raw.items():
            results[f"best_{score}"], results[f"best_{score}_thresh"] = _best_threshold(
                answers, doubts, truths, values
            )
        return results


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, without ASCII punctuation and then without articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _same(answer: str, truth: str) -> bool:
    return _words(answer) == _words(truth)


def _overlap(answer: str, truth: str) -> float:
    """Return the harmonic mean of the shares of common words in both texts, 0 without common words."""
    predicted, expected = _words(answer), _words(truth)
    common = (Counter(predicted) & Counter(expected)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


def _overlap_or_both_empty(answer: str, truth: str) -> float:
    # An integer like in the script; since Python 3.12 sum() adds integers and floats differently.
    return int(not _words(answer)) if not _words(truth) else _overlap(answer, truth)


def _truths(row: Row) -> list[str]:
    if not row["answers"]["text"]:
        raise ValueError(
            f"question {row['id']!r} lacks a true answer; score data with unanswerable questions by SquadV2"
        )
    return row["answers"]["text"]


def _best_scores(
    answers: Mapping[str, str],
    truths: Mapping[str, Sequence[str]],
    score: Callable[[str, str], float],
) -> dict[str, float]:
    def worded(texts: Iterable[str]) -> list[str]:
        # Truths of articles and punctuation alone are ignored; without others, "" is the right answer.
        return [text for text in texts if _words(text)] or [""]

    return {name: max(score(answers[name], text) for text in worded(truths[name])) for name in truths}


def _best_threshold(
    answers: Mapping[str, str],
    doubts: Mapping[str, float],
    truths: Mapping[str, Sequence[str]],
    scores: Mapping[str, float],
) -> tuple[float, float]:
    """Return the best score in percent, and the threshold (a doubt) that gives it.

    Starting with "" for every question, answers are taken one by one in order of doubt. Like the official
    script, this also tries to split equal doubts, which no threshold can.
    """
    best: float = sum(not texts for texts in truths.values())
    current = best
    threshold = 0.0
    for name in sorted((name for name in doubts if name in truths), key=doubts.__getitem__):
        current += scores[name] if truths[name] else -bool(answers[name])
        if current > best:
            best, threshold = current, doubts[name]
    return 100.0 * best / len(scores), threshold
