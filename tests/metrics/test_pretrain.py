"""Scores of masked tokens and pairs, from reduced logits."""

import math

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_sparse.metrics.pretrain import pretraining_scores, scored_pairs

NOT = -100


def test_logits_become_answers_with_their_losses() -> None:
    tokens = torch.tensor([[[0.0, 1.0], [torch.nan, 0.0]], [[0.0, 0.0], [2.0, 0.0]]])
    pairs = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    labels = torch.tensor([[0, NOT], [NOT, 0]])
    kept = scored_pairs((tokens, pairs, torch.zeros(3)), (labels, torch.tensor([1, NOT])))
    answers, losses, following = kept
    assert answers[:, 0].tolist() == [1, 0] and following.tolist() == [1, 0]
    expected = [[math.log(1 + math.e), 0.0], [0.0, math.log(1 + math.exp(-2))]]
    assert losses.tolist() == [pytest.approx(row) for row in expected]


def test_only_what_has_a_label_counts() -> None:
    labels = (np.array([[NOT, 7, 8], [9, NOT, NOT]]), np.array([0, NOT]))
    predictions = (np.array([[1, 7, 1], [9, 1, 1]]), np.array([[5.0, 1, 2], [3, 5, 5]]), np.array([0, 1]))
    scores = pretraining_scores(EvalPrediction(predictions, labels))
    assert scores == {"accuracy": 2 / 3, "masked_loss": 2.0, "next_sentence_accuracy": 1.0}


def test_without_pairs_their_score_is_left_out() -> None:
    labels = (np.array([[7]]), np.array([NOT]))
    scores = pretraining_scores(EvalPrediction((np.array([[7]]), np.ones((1, 1)), np.array([0])), labels))
    assert scores == {"accuracy": 1.0, "masked_loss": 1.0}
