"""Accuracy, F1, Matthews correlation on numbers that can be checked by hand."""

import math

import numpy as np
import pytest

from hf_sparse.metrics.classification import F1, Accuracy, MatthewsCorrelation


def test_accuracy_is_the_share_of_hits() -> None:
    assert Accuracy().compute(predictions=[0, 2, 1, 1], references=[0, 2, 1, 0]) == {"accuracy": 0.75}


def test_accuracy_takes_batches_of_arrays() -> None:
    metric = Accuracy()
    metric.add_batch(predictions=np.array([1, 1]), references=np.array([1, 0]))
    metric.add_batch(predictions=np.array([1, 1]), references=np.array([1, 1]))
    assert metric.compute() == {"accuracy": 0.75}
    assert metric.compute(predictions=[1], references=[1]) == {"accuracy": 1.0}


def test_f1_is_of_class_one() -> None:
    # 1 true positive, 1 false positive, 2 false negatives: 2 / (2 + 1 + 2)
    scores = F1().compute(predictions=[1, 1, 0, 0, 0], references=[1, 0, 1, 1, 0])
    assert scores == {"f1": pytest.approx(0.4)}


def test_f1_without_any_positive_is_zero() -> None:
    assert F1().compute(predictions=[0, 0], references=[0, 0]) == {"f1": 0.0}


def test_f1_averages_more_classes() -> None:
    scores = F1().compute(predictions=[0, 1, 2], references=[0, 1, 1], average="macro")
    assert scores == {"f1": pytest.approx((1 + 2 / 3 + 0) / 3)}


def test_matthews_correlation_of_a_confusion_matrix() -> None:
    # tp 2, tn 1, fp 1, fn 0
    scores = MatthewsCorrelation().compute(predictions=[1, 1, 0, 1], references=[1, 1, 0, 0])
    assert scores == {"matthews_correlation": pytest.approx(2 / math.sqrt(3 * 2 * 2 * 1))}


def test_matthews_correlation_of_a_constant_is_zero() -> None:
    scores = MatthewsCorrelation().compute(predictions=[1, 1, 1], references=[1, 0, 1])
    assert scores == {"matthews_correlation": 0.0}
