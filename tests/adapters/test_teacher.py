"""A model with its adapters off teaches itself with its adapters on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import nn
from transformers import default_data_collator

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.distillation.base_teacher import BaseAsTeacher, adapters_off
from tests.adapters.adapted import adapted, logits, masked, plain, sparse_bert
from tests.support.tiny import arguments, bert, llama, same_weights, sentences, texts

TERMS = ["distillation.hidden=1.0", "distillation.attention=1.0", "distillation.relations=1.0"]
RECIPE = Recipe.from_dict({"distillation": {"teacher": "base"}})
# Attention that returns its probabilities, all of them.
EAGER = {"attn_implementation": "eager", "attention_probs_dropout_prob": 0.0}


def trainer(folder: Path, model: nn.Module, recipe: Recipe = RECIPE, **changes: Any) -> SparseTrainer:
    parts = {name: changes.pop(name) for name in ("teacher",) if name in changes}
    args = arguments(folder, **changes)
    return SparseTrainer(model=model, args=args, train_dataset=sentences(24), recipe=recipe, **parts)


@pytest.mark.parametrize("injected", [False, True])
def test_it_says_what_the_base_says_and_leaves_the_model_as_it_was(injected: bool) -> None:
    base, model = sparse_bert(), sparse_bert()
    if injected:
        model.add_adapter(masked(task_type=None, init_lora_weights=False))
    else:
        model = adapted(model, masked())
    model.train()
    model.get_submodule("base_model" if injected else "base_model.model.bert").eval()
    frozen = next(part for name, part in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    trains = [part.requires_grad for part in model.parameters()]
    teacher, state = BaseAsTeacher(model), torch.random.get_rng_state()
    assert torch.equal(logits(teacher), logits(base))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [part.requires_grad for part in model.parameters()] == trains
    assert not torch.equal(logits(model.eval()), logits(base))
    assert list(teacher.parameters()) == []


def test_adapters_are_on_again_after_an_error() -> None:
    model = adapted(sparse_bert(), masked())
    said = logits(model)
    with pytest.raises(ZeroDivisionError), adapters_off(model):
        raise ZeroDivisionError
    assert torch.equal(logits(model), said)


def test_a_run_is_that_with_a_copy_of_the_base(tmp_path: Path) -> None:
    one, other = (adapted(sparse_bert(**EAGER), masked(lora_dropout=0.1)) for _ in range(2))
    terms = [term for term in TERMS if "relations" not in term]
    trainer(tmp_path, one, RECIPE.override(terms)).train()
    given = RECIPE.override([*terms, "distillation.teacher=given"])
    trainer(tmp_path, other, given, teacher=sparse_bert(**EAGER)).train()
    assert same_weights(one, other)


def test_both_passes_are_watched_apart(tmp_path: Path) -> None:
    model = adapted(sparse_bert(**EAGER), masked())
    run = trainer(tmp_path, model, RECIPE.override(TERMS), max_steps=1)
    batch = default_data_collator(sentences(4))
    with run.distiller.watching(model) as seen:
        model(**batch)
        (ours,) = (part["projections"] for part in seen if "projections" in part)
        mine = ours[2]["queries"].detach().clone()
        theirs = run.distiller._teach(model, batch)["projections"]
    base = sparse_bert(**EAGER)
    expected = {}
    handle = base.bert.encoder.layer[1].attention.self.query.register_forward_hook(
        lambda module, args, output: expected.update(query=output)
    )
    base(**batch)
    handle.remove()
    assert torch.equal(theirs[2]["queries"], expected["query"])
    assert torch.equal(ours[2]["queries"], mine) and not torch.allclose(mine, expected["query"], atol=0.1)


@pytest.mark.parametrize("steps", [1, 2])
def test_language_models_that_agree_with_their_base_lose_nothing(steps: int, tmp_path: Path) -> None:
    model = get_peft_model(llama(), masked(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    args = arguments(tmp_path, max_steps=2, gradient_accumulation_steps=steps)
    run = SparseTrainer(model=model, args=args, train_dataset=texts(24), recipe=RECIPE)
    run.train()
    assert run.state.log_history[0]["loss_logits"] == pytest.approx(0.0, abs=1e-6)


def test_a_run_with_every_term_learns_and_logs(tmp_path: Path) -> None:
    run = trainer(tmp_path, adapted(sparse_bert(**EAGER), masked()), RECIPE.override(TERMS))
    run.train()
    first = run.state.log_history[0]
    assert all(first[f"loss_{name}"] > 0 for name in ("task", "logits", "hidden", "attention", "relations"))


def test_an_adapter_that_does_nothing_yet_agrees_with_its_teacher(tmp_path: Path) -> None:
    model = get_peft_model(sparse_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), masked())
    run = trainer(tmp_path, model)
    run.train()
    assert run.state.log_history[0]["loss_logits"] == pytest.approx(0.0, abs=1e-6)
    assert run.state.log_history[5]["loss_logits"] > 0


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 6}
    straight, resumed = (adapted(sparse_bert(), masked(lora_dropout=0.1)) for _ in range(2))
    trainer(tmp_path / "run", straight, **saving).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-6")
    trainer(tmp_path / "again", resumed, **saving).train(resume_from_checkpoint=checkpoint)
    assert same_weights(straight, resumed)


def test_where_there_is_no_adapter_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BertForSequenceClassification lacks adapters; add one"):
        trainer(tmp_path, bert())
    prompt = get_peft_model(bert(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="lacks adapters; add one"):
        trainer(tmp_path, prompt)


def test_a_base_that_trains_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\d+ weights of the base train too, such as .*bias; freeze them"):
        trainer(tmp_path, get_peft_model(sparse_bert(), plain(bias="all")))


def test_a_second_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipe says teacher: base, .* distillation.teacher=given"):
        trainer(tmp_path, adapted(sparse_bert(), masked()), teacher=bert(1))


def test_a_new_model_for_every_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="teacher: base is .* model_init makes a new one"):
        SparseTrainer(
            model_init=lambda: adapted(sparse_bert(), masked()),
            args=arguments(tmp_path),
            train_dataset=sentences(8),
            recipe=RECIPE,
        )
