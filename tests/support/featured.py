"""Training runs whose recipe has feature terms."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse import Recipe, SparseTrainer
from tests.support.lessons import Gradients
from tests.support.pairs import batch, make
from tests.support.tiny import arguments

WIDE = {"hidden_size": 48, "intermediate_size": 96}


def rows(kind: str, count: int = 8) -> list[dict[str, Tensor]]:
    inputs = batch(kind, count)
    labels = inputs["input_ids"] if kind == "llama" else torch.arange(count) % 2
    return [
        {name: values[i] for name, values in inputs.items()} | {"labels": labels[i]} for i in range(count)
    ]


def recipe(**distillation: Any) -> Recipe:
    return Recipe.from_dict({"distillation": distillation})


def trainer(
    folder: Path,
    distillation: dict[str, Any],
    kind: str = "bert",
    cut: tuple[int, int] = (8, 1),
    teacher: PreTrainedModel | None = None,
    student: PreTrainedModel | None = None,
    parts: dict[str, Any] | None = None,
    **changes: Any,
) -> SparseTrainer:
    size, micro_batches = cut
    settings = {"num_train_epochs": 1, "max_steps": -1, "max_grad_norm": 0.0, "weight_decay": 0.1}
    args = arguments(
        folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=micro_batches,
        **(settings | changes),
    )
    given = {"train_dataset": rows(kind), "callbacks": [Gradients()]} | (parts or {})
    return SparseTrainer(
        make(kind) if student is None else student,
        args,
        recipe=recipe(**distillation),
        teacher=make(kind, 1) if teacher is None else teacher,
        **given,
    )


def gradients(run: SparseTrainer) -> dict[str, Tensor]:
    (found,) = (callback for callback in run.callback_handler.callbacks if isinstance(callback, Gradients))
    return found.steps[0]
