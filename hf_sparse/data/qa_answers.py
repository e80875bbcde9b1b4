"""Turn start and end logits into answers: the best span of each context, or none."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hf_sparse.data.qa_features import QuestionSet

# Windows searched at once; the scores of all their spans fit into a cache.
_TOGETHER = 64
# The odds against an answer without candidates; JSON cannot represent infinity.
_NO_CANDIDATE = float(np.finfo(np.float32).max)
# A span of the context of a row: characters `first` up to, but excluding, `end`.
_SPAN = np.dtype(
    [("row", int), ("score", "f4"), ("first", int), ("end", int), ("start_logit", "f4"), ("end_logit", "f4")]
)


@dataclass(frozen=True)
class Candidate:
    """A possible answer, "" for none; `probability` is the softmax over the candidates of its question."""

    text: str
    probability: float
    start_logit: float
    end_logit: float


@dataclass(frozen=True)
class Answer:
    """The answer to a question: `text`, "" for no answer.

    `candidates` are sorted, the likeliest first; `best_text` is the likeliest that is not empty. `null_odds`
    is the score of "no answer" minus that of `best_text` (each a sum of two logits), so their log odds.
    """

    id: str
    text: str
    best_text: str
    null_odds: float
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class AnswerFinder:
    """Chooses answers among all spans of a context (Devlin et al. 2018, arXiv:1810.04805, section 4.3).

    The score of a span is the start logit of its first token plus the end logit of its last token. The span
    with the highest score in all windows of a question is the answer.

    Args:
        version_2_with_negative: Allow the answer "". Its score is the sum of both logits of the token that
            means "no answer", in the window where that sum is lowest.
        n_best_size: Candidates of a question.
        max_answer_length: Tokens in an answer, at most.
        null_score_diff_threshold: The answer is "" if its score exceeds that of the best span by more.

    Raises:
        ValueError: A size is below 1.
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
        """Return the answers to all questions, in their order.

        Args:
            questions: The questions with their N windows.
            starts: Start logits (N, L); L is at least the length of the longest window.
            ends: End logits (N, L). Logits that are not finite are ignored.
        """
        starts, ends = starts.astype(np.float32), ends.astype(np.float32)
        starting = range(0, len(questions), _TOGETHER)
        spans = np.concatenate(
            [self._best_spans(questions, starts, ends, slice(at, at + _TOGETHER)) for at in starting]
        )
        spans = spans[np.lexsort((spans["end"], spans["first"], -spans["score"], spans["row"]))]
        edges = np.searchsorted(spans["row"], np.arange(len(questions.ids) + 1))
        nulls = _null_logits(questions, starts, ends).tolist()
        return [
            self._answer(name, context, spans[edges[row] : edges[row + 1]], nulls[row])
            for row, (name, context) in enumerate(zip(questions.ids, questions.contexts, strict=True))
        ]

    def _best_spans(
        self, questions: QuestionSet, starts: np.ndarray, ends: np.ndarray, chosen: slice
    ) -> np.ndarray:
        """Return the best spans of a slice of windows."""
        first, end = questions.first[chosen], questions.end[chosen]
        width = first.shape[1]
        reach = min(self.max_answer_length, width)
        start, stop = (
            np.where((end > first) & np.isfinite(logits), logits, -np.inf)
            for logits in (starts[chosen, :width], ends[chosen, :width])
        )
        beyond = np.pad(stop, ((0, 0), (0, reach - 1)), constant_values=-np.inf)
        # For each window (axis 0) and first token (axis 1): spans of 1, 2, ... tokens.
        scores = start[:, :, None] + sliding_window_view(beyond, reach, axis=1)
        scores = scores.reshape(len(scores), -1)
        count = min(self.n_best_size, scores.shape[1])
        place = np.argpartition(scores, -count, axis=1)[:, -count:].ravel()
        window = np.repeat(np.arange(len(scores)), count)
        real = scores[window, place] > -np.inf
        window, place = window[real], place[real]
        token, last = place // reach, place // reach + place % reach
        spans = np.empty(len(window), dtype=_SPAN)
        spans["row"], spans["score"] = questions.row[chosen][window], scores[window, place]
        spans["first"], spans["end"] = first[window, token], end[window, last]
        spans["start_logit"], spans["end_logit"] = start[window, token], stop[window, last]
        return spans

    def _answer(self, name: str, context: str, spans: np.ndarray, null: list[float]) -> Answer:
        # Neighboring windows overlap and find the same spans; spans are sorted, so the best is kept.
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
    """Return both logits of "no answer", (questions, 2), from the window with the lowest sum."""
    windows = np.arange(len(questions))
    logits = np.stack([starts[windows, questions.no_answer], ends[windows, questions.no_answer]], axis=1)
    order = np.lexsort((logits.sum(axis=1), questions.row))
    return logits[order[np.searchsorted(questions.row[order], np.arange(len(questions.ids)))]]


def _softmax(scores: list[float]) -> list[float]:
    powers = np.exp(np.array(scores) - max(scores, default=0.0))
    return (powers / powers.sum()).tolist()
