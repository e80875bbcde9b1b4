"""The distillation loss of a training run does not depend on how batches are split."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer
from tests.support.lessons import LESSONS, TEMPERATURE, Gradients, Lesson, Spoiled
from tests.support.tiny import arguments, texts

TASK, LOGITS = 0.3, 0.7
ONE_BATCH = (8, 1)
# The last micro-batch of 3 x 3 has two rows.
CUTS = [(4, 2), (2, 4), (3, 3)]


def teaching(task: float = TASK, logits: float = LOGITS) -> Recipe:
    return Recipe.from_dict({"distillation": {"temperature": TEMPERATURE, "task": task, "logits": logits}})


def taught(
    lesson: Lesson, folder: Path, cut: tuple[int, int] = ONE_BATCH, rows: int = 8, **changes: Any
) -> tuple[SparseTrainer, dict[str, Tensor], dict[str, float]]:
    """Train one step on `rows` rows; return the trainer, the gradients and the log line."""
    batch, micro_batches = cut
    parts = {"recipe": teaching(), "teacher": lesson.make(1), "train_dataset": lesson.rows(rows)}
    given = {name: changes.pop(name) for name in (*parts, "compute_loss_func", "kind") if name in changes}
    kind = given.pop("kind", SparseTrainer)
    settings = {"num_train_epochs": 1, "max_steps": -1, "max_grad_norm": 0.0, "weight_decay": 0.0}
    args = arguments(
        folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=micro_batches,
        **(settings | changes),
    )
    gradients = Gradients()
    if kind is Trainer:
        parts = {"train_dataset": parts["train_dataset"]}
    trainer = kind(lesson.make(0), args, callbacks=[gradients], **(parts | given))
    trainer.train()
    return trainer, gradients.steps[0], trainer.state.log_history[0]


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    assert one.keys() == other.keys()
    scale = max(value.abs().max().item() for value in other.values())
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_the_gradient_is_that_of_one_large_batch_however_it_is_cut(lesson: Lesson, tmp_path: Path) -> None:
    _, whole, line = taught(lesson, tmp_path)
    task, logits = lesson.losses(8)
    assert line["loss_task"] == pytest.approx(task, rel=1e-5)
    assert line["loss_logits"] == pytest.approx(logits, rel=1e-4)
    assert line["loss"] == pytest.approx(TASK * task + LOGITS * logits, rel=1e-4)
    for cut in CUTS:
        _, pieces, other = taught(lesson, tmp_path, cut)
        assert_close(pieces, whole)
        for name in ("loss", "loss_task", "loss_logits", "grad_norm"):
            assert other[name] == pytest.approx(line[name], rel=1e-4)


@pytest.mark.parametrize("name", ["classification", "masked", "causal"])
def test_label_smoothing_goes_with_distillation(name: str, tmp_path: Path) -> None:
    changes = {"label_smoothing_factor": 0.2}
    _, whole, line = taught(LESSONS[name], tmp_path, **changes)
    _, pieces, other = taught(LESSONS[name], tmp_path, (3, 3), **changes)
    _, _, stock = taught(LESSONS[name], tmp_path, kind=Trainer, **changes)
    assert line["loss_task"] == pytest.approx(stock["loss"], rel=1e-5)
    assert other["loss_task"] == pytest.approx(stock["loss"], rel=1e-5)
    assert_close(pieces, whole)


def test_a_loss_of_the_users_own_goes_with_distillation(tmp_path: Path) -> None:
    def squares(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return (outputs.logits[:, 1] - labels).square().mean()

    lesson = LESSONS["classification"]
    _, whole, line = taught(lesson, tmp_path, compute_loss_func=squares)
    _, pieces, other = taught(lesson, tmp_path, (3, 3), compute_loss_func=squares)
    assert other["loss"] == pytest.approx(line["loss"], rel=1e-5)
    assert_close(pieces, whole)


@pytest.mark.parametrize("name", ["classification", "masked"])
def test_runs_of_several_steps_end_with_equal_weights(name: str, tmp_path: Path) -> None:
    """20 rows are 3 steps, the last of which has 4 rows."""
    lesson = LESSONS[name]
    changes = {"rows": 20, "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant"}
    one, _, _ = taught(lesson, tmp_path, **changes)
    for cut in [(4, 2), (2, 4)]:
        other, _, _ = taught(lesson, tmp_path, cut, **changes)
        assert other.state.global_step == one.state.global_step == 3
        assert_close(other.model.state_dict(), one.model.state_dict())


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_a_student_that_equals_its_teacher_learns_nothing_from_it(lesson: Lesson, tmp_path: Path) -> None:
    changes = {"teacher": lesson.make(0), "recipe": teaching(task=0.0, logits=1.0)}
    _, gradients, line = taught(lesson, tmp_path, (4, 2), **changes)
    assert line["loss_logits"] == pytest.approx(0.0, abs=1e-5)
    assert max(gradient.abs().max().item() for gradient in gradients.values()) < 1e-5


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_next_to_no_distillation_is_the_task_alone(lesson: Lesson, tmp_path: Path) -> None:
    _, ours, line = taught(lesson, tmp_path, recipe=teaching(task=1.0, logits=1e-12))
    _, stock, their_line = taught(lesson, tmp_path, kind=Trainer)
    assert line["loss"] == pytest.approx(their_line["loss"], rel=1e-5)
    assert_close(ours, stock)


@pytest.mark.parametrize("name", ["token classes", "masked", "causal", "answers", "pre-training"])
def test_what_the_teacher_says_of_padding_never_counts(name: str, tmp_path: Path) -> None:
    lesson = LESSONS[name]
    _, clean, line = taught(lesson, tmp_path, (4, 2))
    _, spoiled, other = taught(lesson, tmp_path, (4, 2), teacher=Spoiled(lesson.make(1)))
    assert other["loss_logits"] == line["loss_logits"]
    assert_close(spoiled, clean, tolerance=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_micro_batches_without_labels_still_learn_from_the_teacher(smoothing: float, tmp_path: Path) -> None:
    def rows(count: int) -> list[dict[str, Tensor]]:
        return [row | {"labels": torch.full_like(row["labels"], -100)} for row in texts(count)]

    lesson = LESSONS["masked"]
    changes = {"train_dataset": rows(8), "label_smoothing_factor": smoothing}
    _, gradients, line = taught(lesson, tmp_path, (2, 4), **changes)
    assert line["loss_task"] == 0.0
    assert line["loss_logits"] == pytest.approx(lesson.losses(8)[1], rel=1e-4)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
