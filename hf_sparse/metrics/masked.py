"""How many masked tokens a model finds again."""

from torch import Tensor
from transformers import EvalPrediction

from hf_sparse.metrics.classification import Accuracy

IGNORED = -100  # the label of a token that is not scored


def most_likely(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Reduce logits (B, L, V) to tokens (B, L), or (B, C) to classes (B), so that no evaluation keeps them.

    For the argument `preprocess_logits_for_metrics` of a Trainer.
    """
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def masked_accuracy(answers: EvalPrediction) -> dict[str, float]:
    """Score the answers of `most_likely` where a label is not -100, for `compute_metrics` of a Trainer."""
    masked = answers.label_ids != IGNORED
    return Accuracy().compute(predictions=answers.predictions[masked], references=answers.label_ids[masked])
