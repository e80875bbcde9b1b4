"""Compiled students learn what the others learn, whatever was compiled in the process before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from featured import gradients, rows, trainer
from lessons import Gradients
from pairs import make
from torch import Tensor

COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}
# Evaluation calls both models without a look at their inside, the teacher as often as the student.
PLAIN, RELATIONS = {"task": 0.5, "logits": 0.5}, {"task": 0.5, "logits": 0.5, "relations": {}}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def step(
    folder: Path, distillation: dict[str, Any], **changes: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    run = trainer(folder, distillation, num_train_epochs=2, logging_steps=1, **changes)
    run.train()
    return gradients(run), run.state.log_history[1]


def test_relations_are_seen_whatever_was_compiled_before(tmp_path: Path) -> None:
    wanted, line = step(tmp_path, RELATIONS)
    for distillation in (PLAIN, RELATIONS, PLAIN, RELATIONS):
        found, other = step(tmp_path, distillation, **COMPILED)
        if distillation is RELATIONS:
            assert other["loss_relations"] == pytest.approx(line["loss_relations"], rel=1e-4) != 0
            for name, gradient in wanted.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    # And what is compiled leaves nothing behind for what is not.
    after, last = step(tmp_path, RELATIONS)
    assert last == line
    assert all(torch.equal(after[name], gradient) for name, gradient in wanted.items())


def test_a_compiled_teacher_is_seen_although_the_student_was_evaluated(tmp_path: Path) -> None:
    """Both have one class, and the teacher is called in the mode in which the student is evaluated."""
    _, line = step(tmp_path, RELATIONS)
    teacher = make("bert", 1).eval()
    teacher.compile(backend="eager")
    with torch.no_grad():
        teacher(
            input_ids=torch.ones(8, 8, dtype=torch.long), attention_mask=torch.ones(8, 8, dtype=torch.long)
        )
    parts = {"train_dataset": rows("bert"), "eval_dataset": rows("bert"), "callbacks": [Gradients()]}
    run = trainer(
        tmp_path, RELATIONS, teacher=teacher, parts=parts, eval_strategy="steps", eval_steps=1,
        num_train_epochs=2, logging_steps=1, **COMPILED,
    )  # fmt: skip
    run.train()
    found = [entry["loss_relations"] for entry in run.state.log_history if "loss_relations" in entry]
    assert found[1] == pytest.approx(line["loss_relations"], rel=1e-4)
