"""The tasks of the GLUE benchmark (Wang et al. 2018, arXiv:1804.07461)."""

from dataclasses import dataclass

import evaluate

from hf_sparse.metrics.classification import F1, Accuracy, MatthewsCorrelation, Pearson, Spearman
from hf_sparse.metrics.local import LocalMetric


@dataclass(frozen=True)
class GlueTask:
    """Text columns, class names (class 0 first; empty for a regression) and metrics of a task."""

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[type[LocalMetric], ...] = (Accuracy,)

    def metric(self) -> evaluate.CombinedEvaluations:
        """Return the metric of the task; its `compute(predictions=, references=)` returns scores by name."""
        return evaluate.combine([metric() for metric in self.metrics])


_SENTENCES = ("sentence1", "sentence2")

GLUE_TASKS = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), (MatthewsCorrelation,)),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(_SENTENCES, ("not_equivalent", "equivalent"), (Accuracy, F1)),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate"), (Accuracy, F1)),
    "stsb": GlueTask(_SENTENCES, (), (Pearson, Spearman)),
    "mnli": GlueTask(("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment")),
    "rte": GlueTask(_SENTENCES, ("entailment", "not_entailment")),
    "wnli": GlueTask(_SENTENCES, ("not_entailment", "entailment")),
}


def glue_task(name: str) -> GlueTask:
    """Return a task by its name; raise `ValueError` for a name outside GLUE."""
    if name not in GLUE_TASKS:
        raise ValueError(f"{name!r} is not a GLUE task; choose one of {', '.join(GLUE_TASKS)}")
    return GLUE_TASKS[name]
