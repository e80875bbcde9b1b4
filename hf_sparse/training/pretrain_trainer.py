"""A Trainer for models with two heads: one for masked tokens, one for pairs of sentences."""

from typing import Any

from torch import Tensor, nn

from hf_sparse.distillation.losses import mean_loss
from hf_sparse.training.trainer import SparseTrainer


class PreTrainingTrainer(SparseTrainer):
    """A SparseTrainer for models such as BertForPreTraining, also on texts that are not pairs.

    The loss of such a model is the sum of two means: over masked tokens, and over pairs, whose
    `next_sentence_label` is not -100. If a batch lacks masked tokens, or pairs, the model's own sum is NaN;
    here that head then adds nothing, in training and in evaluation.

    Args:
        *args: Arguments of `SparseTrainer`.
        **kwargs: Keyword arguments of `SparseTrainer`.

    Raises:
        ValueError: `label_smoothing_factor` is set, which transformers applies to one head only.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.label_smoother is not None:
            raise ValueError(
                f"label_smoothing_factor is {self.args.label_smoothing_factor}, and transformers smooths the "
                "labels of one head, where this model has two; set it to 0"
            )
        # These models take num_items_in_batch and ignore it, so Trainer has to average their means.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the loss as `SparseTrainer` does, without a head whose labels this batch lacks."""
        loss, outputs = super().compute_loss(model, inputs, True, *args, **kwargs)
        distilled = self.distiller is not None and model.training
        if not distilled and loss.isnan():
            loss = mean_loss(outputs["prediction_logits"], inputs["labels"]) + mean_loss(
                outputs["seq_relationship_logits"], inputs["next_sentence_label"]
            )
        return (loss, outputs) if return_outputs else loss
