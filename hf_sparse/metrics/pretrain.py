"""Scores of pre-training: masked tokens and next-sentence prediction."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import EvalPrediction

from hf_sparse.metrics.classification import Accuracy

# The label of a token that is not scored.
IGNORED = -100


def most_likely(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Reduce logits (B, L, V) to tokens (B, L), or (B, C) to classes (B), to save memory in evaluation.

    For the argument `preprocess_logits_for_metrics` of a Trainer.
    """
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def masked_accuracy(answers: EvalPrediction) -> dict[str, float]:
    """Score the tokens of `most_likely` whose label is not -100, for `compute_metrics` of a Trainer."""
    masked = answers.label_ids != IGNORED
    return Accuracy().compute(predictions=answers.predictions[masked], references=answers.label_ids[masked])


def scored_pairs(logits: tuple[Tensor, ...], labels: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce logits to the inputs of `pretraining_scores`, to save memory in evaluation.

    For the argument `preprocess_logits_for_metrics` of a Trainer.

    Args:
        logits: Token logits (B, L, V) and pair logits (B, 2).
        labels: Token labels (B, L) and pair labels (B).

    Returns:
        The most likely tokens (B, L), the cross entropy at each token with a label, 0 elsewhere (B, L), and
        the more likely label of each pair (B).
    """
    tokens, pairs = logits[:2]
    keep = labels[0] != IGNORED
    losses = torch.zeros(keep.shape, device=tokens.device)
    losses[keep] = functional.cross_entropy(tokens[keep].float(), labels[0][keep], reduction="none")
    return tokens.argmax(-1), losses, pairs.argmax(-1)


def pretraining_scores(answers: EvalPrediction) -> dict[str, float]:
    """Score the output of `scored_pairs` where a label is not -100, for `compute_metrics` of a Trainer.

    `accuracy` and `masked_loss` (mean cross entropy in nats) count masked tokens; `next_sentence_accuracy`
    counts pairs, and is left out without any.
    """
    # Annotated by transformers as tuples of one array.
    predictions: Any = answers.predictions
    references: Any = answers.label_ids
    (tokens, losses, pairs), (labels, pair_labels) = predictions, references
    masked, paired = labels != IGNORED, pair_labels != IGNORED
    scores = Accuracy().compute(predictions=tokens[masked], references=labels[masked])
    scores["masked_loss"] = float(losses[masked].mean())
    if paired.any():
        found = Accuracy().compute(predictions=pairs[paired], references=pair_labels[paired])
        scores["next_sentence_accuracy"] = found["accuracy"]
    return scores
