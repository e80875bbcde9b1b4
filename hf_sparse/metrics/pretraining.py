"""How well a pre-training model finds masked tokens again, and tells which second sentences follow."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import EvalPrediction

from hf_sparse.metrics.classification import Accuracy
from hf_sparse.metrics.masked import IGNORED


def scored_pairs(logits: tuple[Tensor, ...], labels: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce token logits (B, L, V), pair logits (B, 2) with their labels to what `pretraining_scores` needs.

    Answers the likeliest tokens (B, L), the cross entropy at each token with a label (B, L), the likelier
    label of each pair (B). For the argument `preprocess_logits_for_metrics` of a Trainer.
    """
    tokens, pairs = logits[:2]
    keep = labels[0] != IGNORED
    losses = torch.zeros(keep.shape, device=tokens.device)
    losses[keep] = functional.cross_entropy(tokens[keep].float(), labels[0][keep], reduction="none")
    return tokens.argmax(-1), losses, pairs.argmax(-1)


def pretraining_scores(answers: EvalPrediction) -> dict[str, float]:
    """Score the answers of `scored_pairs` where a label is not -100, for `compute_metrics` of a Trainer.

    `accuracy` and `masked_loss` (mean cross entropy, nats) are of masked tokens; `next_sentence_accuracy` is
    of pairs, left out where there are none.
    """
    (tokens, losses, pairs), (labels, pair_labels) = answers.predictions, answers.label_ids
    masked, paired = labels != IGNORED, pair_labels != IGNORED
    scores = Accuracy().compute(predictions=tokens[masked], references=labels[masked])
    scores["masked_loss"] = float(losses[masked].mean())
    if paired.any():
        found = Accuracy().compute(predictions=pairs[paired], references=pair_labels[paired])
        scores["next_sentence_accuracy"] = found["accuracy"]
    return scores
