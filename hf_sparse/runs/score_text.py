"""Names, units and differences of scores, in words."""

from collections.abc import Mapping
from math import sqrt

_LOSSES = ("loss", "perplexity")
_LOWER_IS_BETTER = (*_LOSSES, "wer", "cer")
_SHARES = ("accuracy", "f1", "precision", "recall")
# Metrics of SQuAD, in percent: of all questions, and of those with and without an answer.
_ANSWERS = ("exact", "exact_match", "f1")
_QUESTIONS = ("HasAns_", "NoAns_")
_NAMES = {
    "f1": "F1",
    "matthews_correlation": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearmanr": "Spearman correlation",
    "wer": "word error rate",
    "cer": "character error rate",
    "HasAns_exact": "exact match, answerable",
    "HasAns_f1": "F1, answerable",
    "NoAns_exact": "exact match, unanswerable",
    "NoAns_f1": "F1, unanswerable",
    "exact": "exact match",
}
# The second evaluation set of MNLI.
_OTHER_SET = "_mm"
# Other values of an evaluation on SQuAD: counts, and scores at the best threshold.
_ASIDE = ("total", "best_", "thresh")


def worth_showing(values: Mapping[str, float]) -> dict[str, float]:
    """Return the scores without counts and thresholds, and without losses if there are other scores.

    A loss depends on how confident training makes a model, for instance by a teacher, so it compares models
    badly.
    """
    kept = {name: value for name, value in values.items() if not any(aside in name for aside in _ASIDE)}
    return {name: value for name, value in kept.items() if not _is_loss(name)} or kept


def title(name: str) -> str:
    """Return the name of a metric in words."""
    stem = name.removesuffix(_OTHER_SET)
    words = _NAMES.get(stem, stem.replace("_", " "))
    return f"{words}, mismatched" if stem != name else words


def written(name: str, value: float, task: str | None, decimals: int = 2) -> str:
    """Return a score as text: in percent if it is surely a share or a percentage, else as it is."""
    factor = _percent(name, task, value)
    return f"{value:.4g}" if factor is None else f"{factor * value:.{decimals}f} %"


def change(name: str, before: float, after: float, task: str | None) -> str:
    """Return the signed difference, in points for percentages, and relative to `before` in percent."""
    factor = _percent(name, task, before, after)
    points = f"{after - before:+.4g}" if factor is None else f"{factor * (after - before):+.2f} points"
    return f"{points} ({(after - before) / abs(before):+.1%})".replace("%", " %") if before else points


def compared(name: str, before: float, after: float, task: str | None) -> str:
    """Return in words how far a score is from that of another model, such as "0.5 points above"."""
    factor = _percent(name, task, before, after)
    distance = abs(after - before) * (factor or 1)
    shown = f"{distance:.3g}" if factor is None else f"{distance:.1f}"
    if float(shown) == 0:
        return "the same as"
    unit = "" if factor is None else " points"
    return f"{shown}{unit} {'above' if after > before else 'below'}"


def lower_is_better(name: str) -> bool:
    """Return whether a metric counts mistakes."""
    return name.removesuffix(_OTHER_SET) in _LOWER_IS_BETTER


def chance(name: str, value: float, samples: int, task: str | None) -> str | None:
    """Return the standard error of an accuracy in points, None for other metrics."""
    counted = task == "text-classification" and name.removesuffix(_OTHER_SET) == "accuracy"
    error = 100 * sqrt(value * (1 - value) / samples) if counted and 0 < value < 1 else 0.0
    return f"{error:.1f} points" if error else None


def _is_loss(name: str) -> bool:
    return name.removesuffix(_OTHER_SET) in _LOSSES


def _percent(name: str, task: str | None, *values: float) -> int | None:
    """Return the factor that turns scores into percentages, None if their unit is uncertain.

    Scripts for question answering write percentages, those for other tasks mostly write shares.
    """
    stem = name.removesuffix(_OTHER_SET)
    for questions in _QUESTIONS:
        stem = stem.removeprefix(questions)
    if task == "question-answering" and stem in _ANSWERS:
        return 1 if all(1 < value <= 100 for value in values) else None
    return 100 if stem in _SHARES and all(0 <= value <= 1 for value in values) else None
