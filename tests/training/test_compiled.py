"""Compiled students learn like others, after anything was compiled in the process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_sparse import SparseTrainer
from tests.support.featured import gradients, rows, trainer
from tests.support.lessons import Gradients
from tests.support.pairs import batch, make

COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}
LOGITS, RELATIONS = {"task": 0.5, "logits": 0.5}, {"task": 0.5, "logits": 0.5, "relations": {}}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compared(folder: Path, distillation: dict[str, Any], **changes: Any) -> SparseTrainer:
    small = {"num_hidden_layers": 1, "intermediate_size": 32}
    parts = {"train_dataset": rows("bert"), "eval_dataset": rows("bert"), "callbacks": [Gradients()]}
    given = {"student": make("bert", **small), "teacher": make("bert", 1, **small), "parts": parts}
    run = trainer(folder, distillation, **(given | changes))
    run.train()
    return run


def line(run: SparseTrainer) -> float:
    return [entry["loss_relations"] for entry in run.state.log_history if "loss_relations" in entry][-1]


def test_relations_are_seen_whatever_was_compiled_before(tmp_path: Path) -> None:
    plain = compared(tmp_path, RELATIONS)
    compared(tmp_path, LOGITS, **COMPILED)
    compiled = compared(tmp_path, RELATIONS, **COMPILED)
    assert line(compiled) == pytest.approx(line(plain), rel=1e-4)
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(compiled)[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    # And what is compiled leaves nothing behind for what is not.
    after = compared(tmp_path, RELATIONS)
    assert line(after) == line(plain)
    assert all(torch.equal(gradients(after)[name], value) for name, value in gradients(plain).items())


def test_a_compiled_teacher_is_seen_although_it_is_called_in_between(tmp_path: Path) -> None:
    class Ask(TrainerCallback):
        """Calls the teacher outside a step, when no term watches it."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                teacher(**batch("bert", 8))

    steps = {"num_train_epochs": 2, "logging_steps": 1}
    plain = compared(tmp_path, RELATIONS, **steps)
    teacher = plain.distiller.teacher
    teacher.compile(backend="eager")
    parts = {"train_dataset": rows("bert"), "callbacks": [Ask()]}
    compiled = compared(tmp_path, RELATIONS, teacher=teacher, parts=parts, **steps)
    assert line(compiled) == pytest.approx(line(plain), rel=1e-3)
