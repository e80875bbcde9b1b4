"""Projections to the width of a teacher are learned beside the student, and never become part of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse import Recipe, SparseTrainer
from tests.support.featured import WIDE, recipe, rows, trainer
from tests.support.lessons import Gradients
from tests.support.pairs import make
from tests.support.tiny import arguments


def learned(folder: Path, **changes: Any) -> SparseTrainer:
    """A run with dropout and pruning, whose teacher is wider than its student."""
    prune = Recipe.preset("prune_ofa_90").override(["sparsity.schedule.every=1", "distillation.hidden=1.0"])
    callbacks = changes.pop("callbacks", None)
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 6}
    return SparseTrainer(
        make("bert", hidden_dropout_prob=0.1),
        arguments(folder, **(settings | changes)),
        recipe=prune,
        teacher=make("bert", 1, **WIDE),
        train_dataset=rows("bert"),
        callbacks=callbacks,
    )


def values(run: SparseTrainer) -> Iterator[tuple[str, Tensor]]:
    yield from run.model.state_dict().items()
    yield from run.distiller.state().items()


def test_projections_are_learned_without_decay_and_never_saved_with_the_model(tmp_path: Path) -> None:
    run = learned(tmp_path, weight_decay=0.1, learning_rate=1e-3, lr_scheduler_type="constant")
    before = run.distiller.state()
    run.train()
    group = run.optimizer.param_groups[-1]
    assert [id(weight) for weight in group["params"]] == [id(weight) for weight in run.distiller.parameters()]
    assert (group["weight_decay"], group["lr"]) == (0.0, 1e-3)
    projections = {f"hidden.projections.hidden_states_{layer}" for layer in (1, 2)}
    assert before.keys() == projections | {"hidden.mean_squares"}
    assert not any(torch.equal(value, before[name]) for name, value in run.distiller.state().items())
    assert run.model.state_dict().keys() == make("bert").state_dict().keys()


def test_projections_join_an_optimizer_of_the_users_own_once(tmp_path: Path) -> None:
    student = make("bert")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, weight_decay=0.3)
    run = trainer(
        tmp_path,
        {"hidden": 1.0},
        student=student,
        teacher=make("bert", 1, **WIDE),
        parts={"optimizers": (optimizer, None)},
    )
    run.train()
    run.train()
    assert [len(group["params"]) for group in run.optimizer.param_groups][1:] == [2]
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    assert optimizer.param_groups[1]["initial_lr"] == 0.01


def test_a_scheduler_made_before_the_projections_is_refused(tmp_path: Path) -> None:
    student = make("bert")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    pair = optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    wide = make("bert", 1, **WIDE)
    with pytest.raises(ValueError, match="pass the optimizer alone, or take a teacher"):
        trainer(tmp_path, {"hidden": 1.0}, student=student, teacher=wide, parts={"optimizers": pair})
    trainer(tmp_path, {"hidden": 1.0}, student=student, parts={"optimizers": pair})


def test_projections_belong_to_one_student(tmp_path: Path) -> None:
    settings = {"recipe": recipe(hidden=1.0), "model_init": lambda: make("bert")}
    with pytest.raises(ValueError, match="belong to one student, and model_init makes another"):
        SparseTrainer(args=arguments(tmp_path), teacher=make("bert", 1, **WIDE), **settings)
    SparseTrainer(args=arguments(tmp_path), teacher=make("bert", 1), **settings)


def test_projections_that_would_have_to_be_sharded_are_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, {"hidden": 1.0}, teacher=make("bert", 1, **WIDE))
    run.is_fsdp_enabled = True
    with pytest.raises(
        ValueError,
        match="its state is saved for the model's own parameters alone; take a teacher",
    ):
        run._make_parts(run.given_recipe)
    run.given_teacher = make("bert", 1)
    run._make_parts(run.given_recipe)


def test_gradients_of_projections_are_those_of_one_step(tmp_path: Path) -> None:
    """At learning rate 0 every step over the same rows has the same gradient, unless one is left over."""
    found: list[list[Tensor]] = []

    class Look(Gradients):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            found.append([weight.grad.clone() for weight in run.distiller.parameters()])

    wide = make("bert", 1, **WIDE)
    changes = {"learning_rate": 0.0, "max_steps": 2}
    run = trainer(
        tmp_path, {"hidden": 1.0}, cut=(4, 2), teacher=wide, parts={"callbacks": [Look()]}, **changes
    )
    run.train()
    for first, second in zip(*found, strict=True):
        assert first.any()
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)


def test_projections_are_learned_alike_however_batches_are_cut(tmp_path: Path) -> None:
    changes = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 3, "teacher": make("bert", 1, **WIDE)}
    one = trainer(tmp_path, {"hidden": 1.0}, **changes)
    one.train()
    other = trainer(tmp_path, {"hidden": 1.0}, cut=(3, 3), **changes)
    other.train()
    for name, value in one.distiller.state().items():
        torch.testing.assert_close(other.distiller.state()[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_bit_for_bit_with_its_projections(tmp_path: Path) -> None:
    class Keep(Gradients):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                kept.update(straight.distiller.state())

    kept: dict[str, Tensor] = {}
    saving = {"save_strategy": "steps", "save_steps": 3}
    straight = learned(tmp_path / "run", callbacks=[Keep()], **saving)
    straight.train()
    resumed = learned(tmp_path / "again", **saving)
    resumed.distiller.load_state(kept)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    ours, theirs = dict(values(straight)), dict(values(resumed))
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_a_state_is_a_copy_and_has_to_fit(tmp_path: Path) -> None:
    run = trainer(tmp_path, {"hidden": 1.0}, teacher=make("bert", 1, **WIDE))
    state = run.distiller.state()
    for weight in run.distiller.parameters():
        weight.data.zero_()
    assert all(value.any() for name, value in state.items() if "projections" in name)
    run.distiller.load_state(state)
    assert all(torch.equal(value, state[name]) for name, value in run.distiller.state().items())
    with pytest.raises(ValueError, match=r"(?s)does not fit this recipe and teacher .*Missing key"):
        run.distiller.load_state({})
    plain = trainer(tmp_path, {"hidden": {"normalize": False}})
    assert plain.distiller.state() == {}
    plain.distiller.load_state({})
    with pytest.raises(ValueError, match=r"(?s)does not fit .*Unexpected key"):
        plain.distiller.load_state(state)


def test_feature_terms_draw_no_random_numbers(tmp_path: Path) -> None:
    """A run with dropout whose terms weigh next to nothing is the run without them."""

    def run(**terms: float) -> PreTrainedModel:
        student = make("bert", hidden_dropout_prob=0.1)
        changes = {"optim": "sgd", "teacher": make("bert", 1, **WIDE), "student": student}
        one = trainer(tmp_path, {"task": 1.0, "logits": 1e-20, **terms}, **changes)
        one.train()
        return one.model

    plain, featured = run(), run(hidden=1e-20, relations=1e-20)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(featured.state_dict()[name], value, rtol=0, atol=0)
