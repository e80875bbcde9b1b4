"""For every kind of head a student, a teacher, data, and the loss computed independently."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from torch.utils.data import default_collate
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    TrainerCallback,
)

from tests.support.tiny import SIZES, sentences, texts

TEMPERATURE = 2.0
Row = dict[str, Tensor]
# Without dropout two runs can be compared; wide weights give logits that differ.
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}


@dataclass(frozen=True)
class Lesson:
    """How one kind of model is taught; `logits_loss` gives its distance to the teacher, all rows at once."""

    model: type[PreTrainedModel]
    rows: Callable[[int], list[Row]]
    logits_loss: Callable[[Any, Any, Row], Tensor]
    config: dict[str, Any]

    def make(self, seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        if self.model is LlamaForCausalLM:
            sizes = {"num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3}
            return self.model(LlamaConfig(**SIZES, **sizes))
        return self.model(BertConfig(**SIZES, **QUIET, **self.config))

    def losses(self, count: int) -> tuple[float, float]:
        """Return the task's loss, the distance to the teacher, over the first rows as one batch."""
        student, teacher, batch = self.make(0), self.make(1), default_collate(self.rows(count))
        with torch.no_grad():
            ours, theirs = student(**batch), teacher(**batch)
            return ours.loss.item(), self.logits_loss(ours, theirs, batch).item()


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean over rows of T^2 KL."""
    logs = [log_softmax(logits / TEMPERATURE, -1) for logits in (ours, theirs)]
    return kl_div(*logs, reduction="sum", log_target=True) * TEMPERATURE**2 / (ours.numel() / ours.shape[-1])


def _sequences(ours: Any, theirs: Any, batch: Row) -> Tensor:
    return _divergence(ours.logits, theirs.logits)


def _squares(ours: Any, theirs: Any, batch: Row) -> Tensor:
    return (ours.logits - theirs.logits).square().mean()


def _labels(ours: Any, theirs: Any, batch: Row) -> Tensor:
    pairs = [torch.stack([logits, torch.zeros_like(logits)], -1) for logits in (ours.logits, theirs.logits)]
    return _divergence(*pairs)


def _tokens(ours: Any, theirs: Any, batch: Row, name: str = "logits") -> Tensor:
    keep = batch["attention_mask"].bool()
    return _divergence(ours[name][keep], theirs[name][keep])


def _answers(ours: Any, theirs: Any, batch: Row) -> Tensor:
    padding = batch["attention_mask"] == 0
    pairs = [
        [outputs[name].masked_fill(padding, -1e9) for outputs in (ours, theirs)]
        for name in ("start_logits", "end_logits")
    ]
    return sum(_divergence(*pair) for pair in pairs) / 2


def _pretraining(ours: Any, theirs: Any, batch: Row) -> Tensor:
    sentences = _divergence(ours.seq_relationship_logits, theirs.seq_relationship_logits)
    return _tokens(ours, theirs, batch, "prediction_logits") + sentences


def _relabeled(make: Callable[[int], list[Row]], label: Callable[[int, Row], Row]) -> Callable:
    def rows(count: int) -> list[Row]:
        return [label(index, row) for index, row in enumerate(make(count))]

    return rows


def _with_answer(index: int, row: Row) -> Row:
    row.pop("labels")
    return row | {
        "start_positions": torch.tensor(1 + index % 3),
        "end_positions": torch.tensor(4 + index % 5),
    }


def _classes(index: int, row: Row) -> Row:
    return row | {"labels": row["labels"].where(row["labels"] < 0, row["labels"] % 3)}


LESSONS = {
    "classification": Lesson(BertForSequenceClassification, sentences, _sequences, {"num_labels": 2}),
    "regression": Lesson(
        BertForSequenceClassification,
        _relabeled(sentences, lambda index, row: row | {"labels": torch.tensor(index / 3)}),
        _squares,
        {"num_labels": 1},
    ),
    "multi-label": Lesson(
        BertForSequenceClassification,
        _relabeled(
            sentences,
            lambda index, row: row | {"labels": torch.tensor([index % 2, 1.0, index % 3 == 0]).float()},
        ),
        _labels,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "token classes": Lesson(
        BertForTokenClassification, _relabeled(texts, _classes), _tokens, {"num_labels": 3}
    ),
    "masked": Lesson(BertForMaskedLM, texts, _tokens, {}),
    "causal": Lesson(LlamaForCausalLM, texts, _tokens, {}),
    "answers": Lesson(BertForQuestionAnswering, _relabeled(sentences, _with_answer), _answers, {}),
    "pre-training": Lesson(
        BertForPreTraining,
        _relabeled(texts, lambda index, row: row | {"next_sentence_label": torch.tensor(index // 2 % 2)}),
        _pretraining,
        {},
    ),
    # However eight rows are cut, some micro-batches have no pair.
    "pre-training with single texts": Lesson(
        BertForPreTraining,
        _relabeled(
            texts,
            lambda index, row: row | {"next_sentence_label": torch.tensor({2: 0, 5: 1}.get(index % 8, -100))},
        ),
        _pretraining,
        {},
    ),
}


class Spoiled(nn.Module):
    """A teacher whose outputs at padding are not numbers."""

    def __init__(self, teacher: PreTrainedModel) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, **inputs: Tensor) -> Any:
        outputs = self.teacher(**inputs)
        padding = inputs["attention_mask"] == 0
        for name in ("logits", "prediction_logits", "start_logits", "end_logits"):
            if name in outputs:
                outputs[name][padding] = torch.nan
        return outputs


class Gradients(TrainerCallback):
    """Keeps the gradients of every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any
    ) -> None:
        found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        self.steps.append({name: gradient.clone() for name, gradient in found.items()})
