"""From the logits of a model to answers: the most likely parts of each context, or none of them."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hf_sparse.data.qa_features import QuestionSet

# So many windows are searched at once, few enough for the scores of all their spans to stay in a cache.
_TOGETHER = 64
# The odds against an answer where the context has nothing to answer with; JSON knows no infinity.
_NO_CANDIDATE = float(np.finfo(np.float32).max)
# A part of the context of a row: characters `first` up to `end`.
_SPAN = np.dtype(
    [("row", int), ("score", "f4"), ("first", int), ("end", int), ("start_logit", "f4"), ("end_logit", "f4")]
)


@dataclass(frozen=True)
class Candidate:
    """A possible answer, "" for none; `probability` is its share among the candidates of its question."""

    text: str
    probability: float
    start_logit: float
    end_logit: float


@dataclass(frozen=True)
class Answer:
    """What is answered to a question: `text`, "" for no answer.

    `candidates` begin with the likeliest; `best_text` is the likeliest that is an answer. `null_odds` is the
    score of "no answer" less that of `best_text`, each a sum of two logits: the log of their odds.
    """

    id: str
    text: str
    best_text: str
    null_odds: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class AnswerFinder:
    """How an answer is chosen among all parts of the context that have at most `max_answer_length` tokens.

    A part scores the sum of its first token's start logit and its last token's end logit; the best one in all
    windows of a question is the answer, and the best `n_best_size` are its candidates. With
    `version_2_with_negative` the answer may also be "": "no answer" scores the sum of both logits of its
    token, in the window where that is lowest, and wins if it is more than `null_score_diff_threshold` above
    the best part (Devlin et al. 2018, arXiv:1810.04805, section 4.3). Raises `ValueError` for sizes below 1.
    """

    version_2_with_negative: bool = False
    n_best_size: int = 20
    max_answer_length: int = 30
    null_score_diff_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")

    def find(self, questions: QuestionSet, starts: np.ndarray, ends: np.ndarray) -> list[Answer]:
        """Answer all questions, in their order, from the logits (N, L) of start and end in N windows.

        L may exceed the tokens of the longest window. Logits that are not finite are passed over.
        """
        starts, ends = starts.astype(np.float32), ends.astype(np.float32)
        parts = range(0, len(questions), _TOGETHER)
        spans = np.concatenate(
            [self._best_spans(questions, starts, ends, slice(at, at + _TOGETHER)) for at in parts]
        )
        spans = spans[np.lexsort((spans["end"], spans["first"], -spans["score"], spans["row"]))]
        edges = np.searchsorted(spans["row"], np.arange(len(questions.ids) + 1))
        nulls = _null_logits(questions, starts, ends).tolist()
        return [
            self._answer(name, context, spans[edges[row] : edges[row + 1]], nulls[row])
            for row, (name, context) in enumerate(zip(questions.ids, questions.contexts, strict=True))
        ]

    def _best_spans(
        self, questions: QuestionSet, starts: np.ndarray, ends: np.ndarray, part: slice
    ) -> np.ndarray:
        """Find the best spans of each of some windows."""
        first, end = questions.first[part], questions.end[part]
        width = first.shape[1]
        reach = min(self.max_answer_length, width)
        start, stop = (
            np.where((end > first) & np.isfinite(logits), logits, -np.inf)
            for logits in (starts[part, :width], ends[part, :width])
        )
        beyond = np.pad(stop, ((0, 0), (0, reach - 1)), constant_values=-np.inf)
        # For each window (axis 0) and first token, the spans of 1, 2, ... tokens.
        scores = start[:, :, None] + sliding_window_view(beyond, reach, axis=1)
        scores = scores.reshape(len(scores), -1)
        count = min(self.n_best_size, scores.shape[1])
        place = np.argpartition(scores, -count, axis=1)[:, -count:].ravel()
        window = np.repeat(np.arange(len(scores)), count)
        real = scores[window, place] > -np.inf
        window, place = window[real], place[real]
        token, last = place // reach, place // reach + place % reach
        spans = np.empty(len(window), dtype=_SPAN)
        spans["row"], spans["score"] = questions.row[part][window], scores[window, place]
        spans["first"], spans["end"] = first[window, token], end[window, last]
        spans["start_logit"], spans["end_logit"] = start[window, token], stop[window, last]
        return spans

    def _answer(self, name: str, context: str, spans: np.ndarray, null: list[float]) -> Answer:
        # Neighbouring windows find the same parts of the context; the best of them comes first.
        found: dict[tuple[int, int], list[float]] = {}
        for _, _, first, end, *logits in spans.tolist():
            found.setdefault((first, end), logits)
        ranked = [(context[first:end].strip(), logits) for (first, end), logits in found.items()]
        ranked = ranked[: self.n_best_size]
        best_text, null_odds = "", _NO_CANDIDATE
        if ranked:
            best_text, null_odds = ranked[0][0], sum(null) - sum(ranked[0][1])
        text = best_text
        if self.version_2_with_negative:
            text = "" if null_odds > self.null_score_diff_threshold else best_text
            ranked = sorted([*ranked, ("", null)], key=lambda candidate: -sum(candidate[1]))
        shares = _softmax([sum(logits) for _, logits in ranked])
        candidates = [
            Candidate(words, share, *logits) for (words, logits), share in zip(ranked, shares, strict=True)
        ]
        return Answer(name, text, best_text, null_odds, tuple(candidates))


def _null_logits(questions: QuestionSet, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Answer the logits of "no answer" to each question, (questions, 2), where their sum is lowest."""
    windows = np.arange(len(questions))
    logits = np.stack([starts[windows, questions.no_answer], ends[windows, questions.no_answer]], axis=1)
    order = np.lexsort((logits.sum(axis=1), questions.row))
    return logits[order[np.searchsorted(questions.row[order], np.arange(len(questions.ids)))]]


def _softmax(scores: list[float]) -> list[float]:
    powers = np.exp(np.array(scores) - max(scores, default=0.0))
    return (powers / powers.sum()).tolist()
