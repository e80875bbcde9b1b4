"""A model may learn from a frozen copy of the dense model that its training starts from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_sparse import Recipe, SparseTrainer, find_targets
from tests.support.runs import outcome
from tests.support.tiny import arguments, bert, masked_lm, same_weights, sentences

RECIPE = Recipe.preset("prune_ofa_90").override(
    ["sparsity.schedule.every=1", "distillation.teacher=self", "distillation.relations=1.0"]
)


def trainer(folder: Path, **changes: Any) -> SparseTrainer:
    parts = {name: changes.pop(name) for name in ("model", "recipe", "teacher") if name in changes}
    settings = {"num_train_epochs": 1, "max_steps": -1}
    args = arguments(folder, **(settings | changes))
    given = {"model": bert(), "train_dataset": sentences(24), "recipe": RECIPE}
    return SparseTrainer(args=args, **(given | parts))


def test_the_teacher_is_the_dense_start_to_the_end(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    assert run.distiller.teacher is not run.model
    assert same_weights(run.distiller.teacher, bert())
    assert not any(weight.requires_grad for weight in run.distiller.teacher.parameters())
    assert run.sparsifier.masks.sparsity == pytest.approx(0.9, abs=1e-3)
    assert run.state.log_history[-2]["loss_relations"] > 0


def test_it_is_a_run_with_a_copy_as_its_teacher(tmp_path: Path) -> None:
    given = RECIPE.override(["distillation.teacher=given"])
    one = trainer(tmp_path)
    one.train()
    other = trainer(tmp_path, recipe=given, teacher=bert())
    other.train()
    assert same_weights(one.model, other.model)


def test_a_run_that_was_cut_off_goes_on_from_the_same_dense_start(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3}
    straight, resumed = (trainer(tmp_path / name, **saving) for name in ("run", "again"))
    straight.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    ours, theirs = outcome(straight)["weights"], outcome(resumed)["weights"]
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_a_second_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipe says teacher: self, .* distillation.teacher=given"):
        trainer(tmp_path, teacher=bert(1))


def test_a_sparse_model_has_no_dense_start(tmp_path: Path) -> None:
    model = bert()
    with torch.no_grad():
        for target in find_targets(model):
            target.weight[: len(target.weight) // 5] = 0.0
    with pytest.raises(ValueError, match=r"and 18\.8% of this one is zero already; pass the dense model"):
        trainer(tmp_path, model=model)


def test_a_model_made_anew_for_every_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_init makes a new one for every run; pass model= instead"):
        SparseTrainer(args=arguments(tmp_path), model_init=lambda: bert(), recipe=RECIPE)


def test_a_language_model_teaches_itself(tmp_path: Path) -> None:
    rows = [row | {"labels": row["input_ids"]} for row in sentences(8)]
    recipe = RECIPE.override(["sparsity=null"])
    run = SparseTrainer(masked_lm(), arguments(tmp_path, max_steps=1), train_dataset=rows, recipe=recipe)
    run.train()
    assert run.state.log_history[0]["loss_logits"] < 0.01
