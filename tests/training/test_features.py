"""Feature terms inside a training run: options of forward passes, losses, logs, hooks removed afterwards."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate
from transformers import PreTrainedModel, Trainer

from tests.support.featured import gradients, rows, trainer
from tests.support.pairs import compare, encoder_decoder, make, mean
from tests.support.tiny import arguments

WEIGHTS = {"task": 0.3, "logits": 0.4, "hidden": 0.5, "attention": 0.6, "relations": 0.7}


@pytest.mark.parametrize("kind", ["bert", "llama", "vit"])
def test_loss_and_gradient_are_those_of_one_large_batch_however_it_is_cut(kind: str, tmp_path: Path) -> None:
    whole = trainer(tmp_path, WEIGHTS, kind)
    whole.train()
    line = whole.state.log_history[0]
    inputs, student, teacher = default_collate(rows(kind)), make(kind), make(kind, 1)
    with torch.no_grad():
        for name in ("hidden", "attention", "relations"):
            settings = {"layers": "uniform", "normalize": True} if name == "hidden" else {"layers": "last"}
            expected = mean(compare(name, student.train(), teacher, inputs, **settings), inputs).item()
            assert line[f"loss_{name}"] == pytest.approx(expected, rel=1e-4)
    weighted = sum(weight * line[f"loss_{name}"] for name, weight in WEIGHTS.items())
    assert line["loss"] == pytest.approx(weighted, rel=1e-4)
    pieces = trainer(tmp_path, WEIGHTS, kind, cut=(3, 3))
    pieces.train()
    for name in ("loss", "grad_norm", *(f"loss_{term}" for term in WEIGHTS)):
        assert pieces.state.log_history[0][name] == pytest.approx(line[name], rel=1e-4)
    scale = max(value.abs().max().item() for value in gradients(whole).values())
    for name, value in gradients(whole).items():
        torch.testing.assert_close(gradients(pieces)[name], value, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize(
    ("terms", "options"),
    [
        ({}, set()),
        ({"relations": 1.0}, set()),
        ({"hidden": 1.0}, {"output_hidden_states"}),
        ({"attention": 1.0, "hidden": 0.0}, {"output_attentions"}),
        ({"hidden": 1.0, "attention": 1.0}, {"output_hidden_states", "output_attentions"}),
    ],
)
def test_outputs_are_asked_for_in_training_only_where_a_term_needs_them(
    terms: dict[str, float], options: set[str], tmp_path: Path
) -> None:
    seen: dict[str, list[set[str]]] = {"student": [], "teacher": [], "evaluation": []}
    student, teacher = make("bert"), make("bert", 1)

    def spy(module: PreTrainedModel, args: Any, kwargs: dict[str, Any]) -> None:
        place = "teacher" if module is not student else "student" if module.training else "evaluation"
        seen[place].append({name for name in kwargs if name.startswith("output_")})

    for model in (student, teacher):
        model.register_forward_pre_hook(spy, with_kwargs=True)
    run = trainer(tmp_path, terms, student=student, teacher=teacher, parts={"eval_dataset": rows("bert")})
    run.train()
    stock = Trainer(student, arguments(tmp_path), eval_dataset=rows("bert")).evaluate()
    seen["evaluation"].clear()
    assert run.evaluate()["eval_loss"] == stock["eval_loss"]
    # Before the first step, normalizing sees the teacher's states of the whole batch.
    passes = 2 if terms.get("hidden") else 1
    assert seen == {"student": [options], "teacher": [options] * passes, "evaluation": [set()]}
    expected = {"loss_task", "loss_logits", *(f"loss_{name}" for name, weight in terms.items() if weight)}
    assert {name for name in run.state.log_history[0] if name.startswith("loss_")} == expected


def test_without_a_weight_for_logits_they_are_not_compared(tmp_path: Path) -> None:
    teacher = make("bert", 1, num_labels=5)
    with pytest.raises(ValueError, match="number of labels"):
        trainer(tmp_path, {"hidden": 1.0}, teacher=teacher)
    run = trainer(tmp_path, {"hidden": 1.0, "logits": 0.0}, teacher=teacher)
    run.train()
    line = run.state.log_history[0]
    assert "loss_logits" not in line
    assert line["loss"] == pytest.approx(0.5 * line["loss_task"] + line["loss_hidden"], rel=1e-5)
    with pytest.raises(ValueError, match="vocabulary size is 100, the teacher's 50"):
        trainer(tmp_path, {"hidden": 1.0, "logits": 0.0}, teacher=make("bert", 1, vocab_size=50))


@pytest.mark.parametrize("name", ["hidden", "attention", "relations"])
def test_which_layers_learn_from_a_teacher_of_another_depth_is_said_before_the_first_step(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = make("bert", 1, num_hidden_layers=4)
    run = trainer(tmp_path, {name: {"layers": "uniform"}}, teacher=deep)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("hf_sparse")]
    assert said == [
        f"{name}: 2 layers of the student and 4 of the teacher are paired by layers: uniform, 1 from 2, "
        "2 from 4; a mapping pairs others."
    ]
    assert run.state.global_step == 0
    caplog.clear()
    trainer(tmp_path, {name: {"layers": {1: 2, 2: 4}}}, teacher=deep)
    trainer(tmp_path, {name: {"layers": "uniform"}})
    assert not [record for record in caplog.records if record.name.startswith("hf_sparse")]


def test_both_stacks_of_one_depth_are_told_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    models = [encoder_decoder("t5", seed, (layers, layers)) for seed, layers in enumerate((1, 2))]
    trainer(tmp_path, {"hidden": 1.0}, student=models[0], teacher=models[1])
    assert [record.getMessage() for record in caplog.records if record.name.startswith("hf_sparse")] == [
        "hidden: 1 layers of the student and 2 of the teacher are paired by layers: uniform, 1 from 2; a "
        "mapping pairs others."
    ]


def test_the_models_are_left_without_hooks(tmp_path: Path) -> None:
    run = trainer(tmp_path, {"relations": 1.0})
    run.train()
    for model in (run.model, run.distiller.teacher):
        assert not any(
            module._forward_hooks or module._forward_pre_hooks
            for name, module in model.named_modules()
            if "attention" in name
        )
        pickle.dumps(copy.deepcopy(model))


def checkpointing(reentrant: bool) -> dict[str, Any]:
    # The newest releases have another name for these two; both accept this one.
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}


@pytest.mark.parametrize(
    ("name", "reentrant"), [("hidden", False), ("attention", False), ("relations", False), ("hidden", True)]
)
def test_checkpointing_of_activations_changes_nothing(name: str, reentrant: bool, tmp_path: Path) -> None:
    plain, frugal = (
        trainer(tmp_path, {"task": 0.0, name: 1.0}, **changes) for changes in ({}, checkpointing(reentrant))
    )
    for run in (plain, frugal):
        run.train()
    for key, value in gradients(plain).items():
        torch.testing.assert_close(gradients(frugal)[key], value)


@pytest.mark.parametrize("name", ["attention", "relations"])
def test_reentrant_checkpointing_is_refused_where_it_cuts_gradients_off(name: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, {name: 1.0}, **checkpointing(True))
    with pytest.raises(ValueError, match=r"no gradient reaches the student .* use_reentrant to False"):
        run.train()


def test_inner_states_are_compared_in_single_precision_under_autocast(tmp_path: Path) -> None:
    seen = []
    run = trainer(tmp_path, WEIGHTS, bf16=True, teacher=make("bert", 1))
    for term in run.distiller.features.values():
        term.register_forward_pre_hook(lambda *args: seen.append(torch.is_autocast_enabled("cpu")))
    run.train()
    assert seen == [False] * 3
    assert run.state.log_history[0]["loss"] > 0


def test_several_gpus_in_one_process_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path, WEIGHTS)
    monkeypatch.setattr(type(run.args), "n_gpu", 2)
    with pytest.raises(ValueError, match=r"hidden, attention, relations on 2 GPUs in one process"):
        run._make_parts(run.given_recipe)
