"""What the metrics of this package share: an `evaluate.Metric` needing no download."""

from typing import ClassVar

import datasets
import evaluate


class LocalMetric(evaluate.Metric):
    """Collect predictions beside references in memory; a subclass says in `_compute` what to make of them.

    `evaluate.load` downloads a script for every metric, even accuracy; these classes work like its result.
    """

    dtype: ClassVar[str] = "int64"

    def __init__(
        self, config_name: str | None = None, keep_in_memory: bool = True, **kwargs: str | int | float | None
    ) -> None:
        super().__init__(config_name, keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.dtype)
        features = datasets.Features({"predictions": value, "references": value})
        return evaluate.MetricInfo(description=type(self).__doc__ or "", citation="", features=features)
