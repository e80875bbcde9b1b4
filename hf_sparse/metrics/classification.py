"""Metrics of classification and regression."""

from collections.abc import Sequence

import evaluate
import numpy as np

from hf_sparse.metrics.local import LocalMetric


class Accuracy(LocalMetric):
    """Share of predictions that equal their reference."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(LocalMetric):
    """Harmonic mean of precision and recall, 0 if both are 0.

    By default of class 1 against class 0; with more classes, set `average` ("macro", "micro", "weighted").
    """

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        average: str = "binary",
        pos_label: int = 1,
    ) -> dict[str, float]:
        from sklearn.metrics import f1_score

        score = f1_score(references, predictions, average=average, pos_label=pos_label, zero_division=0.0)
        return {"f1": float(score)}


class MatthewsCorrelation(LocalMetric):
    """Correlation of predicted with true classes in [-1, 1], 0 if either is constant."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        from sklearn.metrics import matthews_corrcoef

        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class Pearson(LocalMetric):
    """Linear correlation in [-1, 1], 0 if either is constant."""

    dtype = "float64"

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        from scipy.stats import pearsonr

        constant = _is_constant(predictions) or _is_constant(references)
        return {"pearson": 0.0 if constant else float(pearsonr(predictions, references).statistic)}


class Spearman(LocalMetric):
    """Correlation of ranks in [-1, 1], 0 if either is constant."""

    dtype = "float64"

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        from scipy.stats import spearmanr

        constant = _is_constant(predictions) or _is_constant(references)
        return {"spearmanr": 0.0 if constant else float(spearmanr(predictions, references).statistic)}


def text_metric(regression: bool) -> evaluate.CombinedEvaluations:
    """Return the metric outside GLUE: accuracy for classification, both correlations for regression."""
    return evaluate.combine([Pearson(), Spearman()] if regression else [Accuracy()])


def _is_constant(values: Sequence[float]) -> bool:
    # The correlation with a constant is undefined, and comparisons of models with NaN are always false.
    return bool(np.ptp(values) == 0)
