"""The metrics that the GLUE benchmark prescribes for each task (Wang et al. 2018, arXiv:1804.07461)."""

import evaluate

from hf_sparse.metrics.classification import F1, Accuracy, MatthewsCorrelation
from hf_sparse.metrics.local import LocalMetric
from hf_sparse.metrics.regression import Pearson, Spearman

GLUE_METRICS: dict[str, tuple[type[LocalMetric], ...]] = {
    "cola": (MatthewsCorrelation,),
    "sst2": (Accuracy,),
    "mrpc": (Accuracy, F1),
    "qqp": (Accuracy, F1),
    "stsb": (Pearson, Spearman),
    "mnli": (Accuracy,),
    "qnli": (Accuracy,),
    "rte": (Accuracy,),
    "wnli": (Accuracy,),
}


def glue_metric(task: str) -> evaluate.CombinedEvaluations:
    """Make the metric of a GLUE task; `compute(predictions=, references=)` answers all its scores by name."""
    if task not in GLUE_METRICS:
        raise ValueError(f"{task!r} is no GLUE task; choose one of {', '.join(GLUE_METRICS)}")
    return evaluate.combine([metric() for metric in GLUE_METRICS[task]])


def text_metric(regression: bool) -> evaluate.CombinedEvaluations:
    """Make the metric of any other text classification: accuracy, or both correlations of a regression."""
    return evaluate.combine([Pearson(), Spearman()] if regression else [Accuracy()])
