"""A teacher adds its loss to a run, and leaves nothing in model, checkpoint or memory."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainerCallback

from hf_sparse import Recipe, SparseTrainer
from tests.support.lessons import LESSONS
from tests.support.tiny import arguments, bert, llama, masked_lm, sentences, texts

RECIPE = Recipe.preset("prune_ofa_90").override(["sparsity.schedule.every=1", "distillation.task=0.2"])


class Look(TrainerCallback):
    """Calls a function after every micro-batch, and after every optimizer step."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
        self.look()

    on_step_end = on_substep_end


def trainer(folder: Path, *looks: Any, **changes: Any) -> SparseTrainer:
    return SparseTrainer(
        bert(),
        arguments(folder, gradient_accumulation_steps=2, **changes),
        train_dataset=sentences(),
        eval_dataset=sentences(16, seed=2),
        recipe=RECIPE,
        teacher=bert(seed=1),
        callbacks=[Look(look) for look in looks],
    )


@pytest.mark.parametrize("every", [1, 3])
def test_each_term_is_logged_beside_the_loss_that_it_is_part_of(every: int, tmp_path: Path) -> None:
    run = trainer(tmp_path, logging_steps=every, eval_strategy="steps", eval_steps=4)
    run.train()
    lines = [line for line in run.state.log_history if "loss" in line]
    assert len(lines) == 12 // every
    weights = RECIPE.distillation
    for line in lines:
        assert line.keys() >= {"learning_rate", "sparsity", "grad_norm", "loss_task", "loss_logits"}
        together = weights.task * line["loss_task"] + weights.logits * line["loss_logits"]
        assert line["loss"] == pytest.approx(together, rel=1e-5)


def test_evaluation_reports_the_loss_of_the_task(tmp_path: Path) -> None:
    run = trainer(tmp_path, eval_strategy="steps", eval_steps=6)
    run.train()
    stock = Trainer(run.model, arguments(tmp_path), eval_dataset=sentences(16, seed=2)).evaluate()
    assert run.evaluate()["eval_loss"] == stock["eval_loss"]
    assert [line["eval_loss"] for line in run.state.log_history if "eval_loss" in line][-1] == stock[
        "eval_loss"
    ]


def test_the_teacher_stays_as_it_was(tmp_path: Path) -> None:
    def look() -> None:
        run.model.train()
        teacher = run.distiller.teacher
        assert not any(module.training for module in teacher.modules())
        assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())

    run = trainer(tmp_path, look)
    run.train()
    fresh = bert(seed=1).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in run.distiller.teacher.state_dict().items())


def test_the_teacher_is_neither_optimized_nor_saved(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_strategy="steps", save_steps=12)
    run.train()
    optimized = {id(weight) for group in run.optimizer.param_groups for weight in group["params"]}
    assert not optimized & {id(weight) for weight in run.distiller.teacher.parameters()}
    assert {id(weight) for weight in run.model.parameters()} == optimized
    with safe_open(tmp_path / "checkpoint-12" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(run.model.state_dict())
    state = torch.load(tmp_path / "checkpoint-12" / "optimizer.pt")["state"]
    assert len(state) == len(list(run.model.parameters()))


def test_no_outputs_are_held_between_micro_batches(tmp_path: Path) -> None:
    """Logits over the vocabulary are by far the largest tensors of a step."""
    vocabulary, found = 103, []

    def model(seed: int) -> BertForMaskedLM:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        return BertForMaskedLM(BertConfig(vocab_size=vocabulary, **sizes))

    def look() -> None:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
        found.append(
            [tensor.shape for tensor in tensors if tensor.dim() > 1 and tensor.shape[-1] == vocabulary]
        )

    SparseTrainer(
        model(0),
        arguments(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=2),
        train_dataset=texts(8),
        recipe=RECIPE.override(["sparsity=null"]),
        teacher=model(1),
        callbacks=[Look(look)],
    ).train()
    assert found == [[], [], [], []]


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (lambda: bert(), lambda: bert(1, num_labels=3), "number of labels"),
        (lambda: bert(), lambda: bert(1, vocab_size=101), "vocabulary size"),
        (lambda: bert(), lambda: masked_lm(1), "kind of head"),
        (lambda: bert(id2label={0: "yes", 1: "no"}), lambda: bert(1, id2label={0: "no", 1: "yes"}), "label"),
        (lambda: masked_lm(), lambda: llama(1), "kind of head"),
        (lambda: bert(), lambda: LESSONS["regression"].make(1), "number of labels"),
    ],
    ids=["labels", "vocabulary", "head", "label names", "causal head", "regression"],
)
def test_a_teacher_of_another_kind_is_refused(student, teacher, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SparseTrainer(student(), arguments(tmp_path), recipe=RECIPE, teacher=teacher())


def test_a_teacher_that_is_the_student_is_refused(tmp_path: Path) -> None:
    model = bert()
    with pytest.raises(ValueError, match="teacher"):
        SparseTrainer(model, arguments(tmp_path), recipe=RECIPE, teacher=model)


def test_teacher_without_distillation_or_the_reverse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no teacher was given; pass teacher="):
        SparseTrainer(bert(), arguments(tmp_path), recipe=RECIPE)
    with pytest.raises(ValueError, match="the recipe lacks distillation; leave the teacher out"):
        SparseTrainer(bert(), arguments(tmp_path), recipe=Recipe(), teacher=bert(1))
