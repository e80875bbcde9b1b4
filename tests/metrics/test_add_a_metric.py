"""A metric is one class; a task takes it, and reports write its scores."""

from collections.abc import Sequence

import pytest

from hf_sparse.data import glue
from hf_sparse.data.glue import GlueTask, glue_task
from hf_sparse.metrics.classification import Accuracy
from hf_sparse.metrics.local import LocalMetric
from hf_sparse.runs import score_text


class Specificity(LocalMetric):
    """Share of the examples of class 0 that are predicted as such."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        answers = [answer for answer, truth in zip(predictions, references, strict=True) if truth == 0]
        return {"specificity": answers.count(0) / len(answers)}


def test_a_metric_is_one_class_that_a_task_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    task = GlueTask(("text",), ("calm", "alarm"), (Accuracy, Specificity))
    monkeypatch.setitem(glue.GLUE_TASKS, "alarms", task)
    scores = glue_task("alarms").metric().compute(predictions=[0, 1, 1, 0], references=[0, 0, 1, 0])
    assert scores == {"accuracy": 0.75, "specificity": pytest.approx(2 / 3)}


def test_its_score_is_written_in_per_cent_once_it_is_listed_as_a_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert score_text.title("specificity") == "specificity"
    assert score_text.written("specificity", 0.5, "text-classification") == "0.5"
    monkeypatch.setattr(score_text, "_SHARES", (*score_text._SHARES, "specificity"))
    assert score_text.written("specificity", 0.5, "text-classification") == "50.00 %"
