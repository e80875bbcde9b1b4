"""Accuracy of masked tokens, from reduced logits."""

import numpy as np
import torch
from transformers import EvalPrediction

from hf_sparse.metrics.pretrain import masked_accuracy, most_likely


def test_only_masked_tokens_count() -> None:
    labels = np.array([[-100, 7, 8], [9, -100, -100]])
    predictions = np.array([[1, 7, 1], [9, 1, 1]])
    assert masked_accuracy(EvalPrediction(predictions, labels)) == {"accuracy": 2 / 3}


def test_logits_become_the_most_likely_token() -> None:
    logits = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]])
    assert most_likely(logits, torch.zeros(1, 2)).tolist() == [[1, 0]]
    assert most_likely((logits, torch.zeros(3)), torch.zeros(1, 2)).tolist() == [[1, 0]]


def test_logits_become_the_most_likely_class() -> None:
    assert most_likely(torch.tensor([[0.1, 0.9, 0.3]]), torch.tensor([0])).tolist() == [1]
