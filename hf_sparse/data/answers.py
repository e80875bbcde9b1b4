"""From the logits of a model to answers: the most likely parts of each context, or none of them."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hf_sparse.data.windows import QuestionSet

# So many windows are searched at once: few enough for all their spans to stay in the processor's cache.
_TOGETHER = 64
# What is given as the doubt about a question whose context holds nothing to answer with; JSON has no infinity.
_NO_CANDIDATE = float(np.finfo(np.float32).max)
# A part of a context: characters `first` up to `end`.
_SPAN = np.dtype(
    [
        ("row", "i8"),
        ("score", "f4"),
        ("first", "i8"),
        ("end", "i8"),
        ("start_logit", "f4"),
        ("end_logit", "f4"),
    ]
)


@dataclass(frozen=True)
class Candidate:
    """A possible answer; `probability` is its share among the candidates of its question, "" is no answer."""

    text: str
    probability: float
    start_logit: float
    end_logit: float


@dataclass(frozen=True)
class Answer:
    """What is answered to a question: `text`, "" for no answer.

    `candidates` begin with the likeliest; `best_text` is the likeliest of them that is an answer. `null_odds` is
    the score of "no answer" less that of `best_text`, both sums of two logits: the log of their odds.
    """

    id: str
    text: str
    best_text: str
    null_odds: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class AnswerFinder:
    """How answers are chosen; of at most `max_answer_length` tokens.

    A part of the context scores the sum of its first token's start logit and its last token's end logit, and
    the best part of all windows is the answer. With `version_2_with_negative` the answer may be "": "no answer"
    scores the sum of both logits of its token, in the window that is least in favour of it, and wins if that is
    more than `null_score_diff_threshold` above the best part (Devlin et al. 2018, arXiv:1810.04805, section
    4.3). Raises `ValueError` for sizes below 1.
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
        """Answer all questions, in their order, from the logits (N, L) of start and end of N windows.

        L may be more than the tokens of the longest window. Logits that are not finite are passed over.
        """
        starts, ends = starts.astype(np.float32), ends.astype(np.float32)
        spans = _best_spans(questions, starts, ends, self.n_best_size, self.max_answer_length)
        edges = np.searchsorted(spans["row"], np.arange(len(questions.ids) + 1))
        nulls = _null_logits(questions, starts, ends)
        return [
            self._answer(name, context, spans[edges[row] : edges[row + 1]].tolist(), nulls[row].tolist())
            for row, (name, context) in enumerate(zip(questions.ids, questions.contexts, strict=True))
        ]

    def _answer(self, name: str, context: str, spans: list[tuple], null: list[float]) -> Answer:
        # Neighbouring windows find the same part of the context; the first time is the best.
        logits: dict[tuple[int, int], tuple[float, float]] = {}
        for _, _, first, end, start_logit, end_logit in spans:
            logits.setdefault((first, end), (start_logit, end_logit))
        ranked = [(context[first:end].strip(), *pair) for (first, end), pair in logits.items()][
            : self.n_best_size
        ]
        best_text, null_odds = "", _NO_CANDIDATE
        if ranked:
            best_text, null_odds = ranked[0][0], sum(null) - sum(ranked[0][1:])
        text = best_text
        if self.version_2_with_negative:
            text = "" if null_odds > self.null_score_diff_threshold else best_text
            ranked = sorted([*ranked, ("", *null)], key=lambda candidate: -sum(candidate[1:]))
        shares = _softmax(np.array([sum(pair) for _, *pair in ranked])).tolist()
        candidates = (
            Candidate(text, share, *pair) for (text, *pair), share in zip(ranked, shares, strict=True)
        )
        return Answer(name, text, best_text, null_odds, tuple(candidates))


def _best_spans(
    questions: QuestionSet, starts: np.ndarray, ends: np.ndarray, count: int, longest: int
) -> np.ndarray:
    """Find the `count` best spans of every window among all of up to `longest` tokens; by row, then by score."""
    found = []
    for at in range(0, len(questions), _TOGETHER):
        part = slice(at, at + _TOGETHER)
        first, end = questions.first[part], questions.end[part]
        width = first.shape[1]
        reach = min(longest, width)
        start, stop = (
            np.where((end > first) & np.isfinite(logits), logits, -np.inf)
            for logits in (starts[part, :width], ends[part, :width])
        )
        stops = sliding_window_view(
            np.pad(stop, ((0, 0), (0, reach - 1)), constant_values=-np.inf), reach, axis=1
        )
        # Of each window (axis 0) and first token, the spans of 1, 2, ... tokens.
        scores = (start[:, :, None] + stops).reshape(len(start), -1)
        kept = min(count, scores.shape[1])
        place = np.argpartition(scores, -kept, axis=1)[:, -kept:].ravel()
        window = np.repeat(np.arange(len(start)), kept)
        score, token, last = scores[window, place], place // reach, place // reach + place % reach
        real = score > -np.inf
        window, score, token, last = window[real], score[real], token[real], last[real]
        columns = (
            questions.row[part][window],
            score,
            first[window, token],
            end[window, last],
            start[window, token],
            stop[window, last],
        )
        spans = np.empty(len(window), dtype=_SPAN)
        for name, values in zip(_SPAN.names, columns, strict=True):
            spans[name] = values
        found.append(spans)
    spans = np.concatenate(found)
    return spans[np.lexsort((spans["first"], -spans["score"], spans["row"]))]


def _null_logits(questions: QuestionSet, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Answer the logits of "no answer" for each question, (questions, 2), from its window of their lowest sum."""
    windows = np.arange(len(questions))
    logits = np.stack([starts[windows, questions.no_answer], ends[windows, questions.no_answer]], axis=1)
    order = np.lexsort((logits.sum(axis=1), questions.row))
    lowest = order[np.searchsorted(questions.row[order], np.arange(len(questions.ids)))]
    return logits[lowest]


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(initial=-np.inf))
    return powers / powers.sum()
