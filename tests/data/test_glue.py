"""Which scores each GLUE task reports."""

import subprocess
import sys

import pytest

from hf_sparse.data.glue import GLUE_TASKS, glue_task
from hf_sparse.metrics.classification import text_metric

SCORES = {
    "cola": ["matthews_correlation"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
    "qqp": ["accuracy", "f1"],
    "stsb": ["pearson", "spearmanr"],
    "mnli": ["accuracy"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
}


@pytest.mark.parametrize("task", SCORES)
def test_each_task_reports_its_own_scores(task: str) -> None:
    scores = glue_task(task).metric().compute(predictions=[0, 1, 0, 1], references=[0, 1, 0, 1])
    assert list(scores) == SCORES[task]
    assert list(scores.values()) == pytest.approx([1.0] * len(scores))


def test_there_are_nine_tasks() -> None:
    assert GLUE_TASKS.keys() == SCORES.keys()


def test_other_texts_are_scored_by_accuracy_or_correlations() -> None:
    assert text_metric(False).compute(predictions=[2, 0], references=[2, 1]) == {"accuracy": 0.5}
    scores = text_metric(True).compute(predictions=[0.1, 0.2], references=[1.0, 2.0])
    assert scores == {"pearson": pytest.approx(1), "spearmanr": pytest.approx(1)}


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="'squad' is not a GLUE task; choose one of cola"):
        glue_task("squad")


def test_importing_the_package_loads_no_metric_library() -> None:
    code = "import sys, hf_sparse; print({'evaluate', 'sklearn', 'scipy', 'datasets'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
