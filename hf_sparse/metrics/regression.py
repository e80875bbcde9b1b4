"""Metrics of predicted numbers."""

from collections.abc import Sequence

import numpy as np

from hf_sparse.metrics.local import LocalMetric


class Pearson(LocalMetric):
    """Linear correlation in [-1, 1], 0 where either side is constant."""

    dtype = "float64"

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        from scipy.stats import pearsonr

        constant = _is_constant(predictions) or _is_constant(references)
        return {"pearson": 0.0 if constant else float(pearsonr(predictions, references).statistic)}


class Spearman(LocalMetric):
    """Correlation of the ranks in [-1, 1], 0 where either side is constant."""

    dtype = "float64"

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        from scipy.stats import spearmanr

        constant = _is_constant(predictions) or _is_constant(references)
        return {"spearmanr": 0.0 if constant else float(spearmanr(predictions, references).statistic)}


def _is_constant(values: Sequence[float]) -> bool:
    # A correlation with a constant is undefined; NaN would make every later comparison of models false.
    return bool(np.ptp(values) == 0)
