"""The base class of metrics: an `evaluate.Metric` that works without a download."""

from typing import ClassVar

import datasets
import evaluate


class LocalMetric(evaluate.Metric):
    """A metric that keeps predictions and references in memory; subclasses define `_compute`.

    `evaluate.load` downloads a script for every metric; these classes behave like its result.
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
