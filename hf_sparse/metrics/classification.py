"""Metrics of predicted classes."""

from collections.abc import Sequence

from hf_sparse.metrics.local import LocalMetric


class Accuracy(LocalMetric):
    """Share of predictions equal to their reference."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(LocalMetric):
    """Harmonic mean of precision with recall, 0 where both are 0.

    By default of class 1 against class 0; `average` ("macro", "micro", "weighted") serves more classes.
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
    """Correlation of predicted with true classes in [-1, 1], 0 where either is constant."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        from sklearn.metrics import matthews_corrcoef

        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
