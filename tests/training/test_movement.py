"""Movement pruning in a run: exact targets, plain checkpoints, weights that come back."""

import itertools

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, find_targets, measure_sparsity, prune
from tests.support.tiny import arguments, bert, pruning, sentences

METHODS = ["movement", "soft_movement"]


def trainer(folder, method: str, *assignments: str, **changes) -> SparseTrainer:
    recipe = pruning(
        f"sparsity.method={method}", "sparsity.lr_rewind=false", "sparsity.schedule.final=0.75", *assignments
    )
    args = arguments(folder, **({"max_steps": 40} | changes))
    return SparseTrainer(bert(), args, train_dataset=sentences(), recipe=recipe)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("allocation", "pattern"),
    [
        *itertools.product(["uniform", "global"], ["unstructured", "4x4", "1x4"]),
        # Segments differ in length, so that they are not ranked together.
        ("uniform", "row/4"),
    ],
)
def test_the_target_is_reached(tmp_path, method: str, allocation: str, pattern: str) -> None:
    run = trainer(tmp_path, method, f"sparsity.allocation={allocation}", f"sparsity.pattern={pattern}")
    run.train()
    assert measure_sparsity(run.model).overall == pytest.approx(0.75, abs=1e-3)
    run.save_model()
    plain = BertForSequenceClassification.from_pretrained(tmp_path)
    assert measure_sparsity(plain).overall == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_two_of_four_is_reached(tmp_path, method: str) -> None:
    run = trainer(tmp_path, method, "sparsity.pattern=2:4", "sparsity.schedule.final=0.5")
    run.train()
    for target in find_targets(run.model):
        assert ((target.weight.detach() != 0).view(-1, 4).sum(1) <= 2).all()
    assert measure_sparsity(run.model).overall == 0.5


def test_what_moves_to_zero_goes_rather_than_what_is_small(tmp_path) -> None:
    run = trainer(tmp_path, "movement")
    before = {target.name: target.weight.detach().abs().clone() for target in find_targets(run.model)}
    run.train()
    masks = run.sparsifier.masks
    kept = torch.cat([before[name][masks[name]] for name in masks.targets.names])
    removed = torch.cat([before[name][~masks[name]] for name in masks.targets.names])
    # By magnitude the largest removed one would be below the smallest kept one.
    assert removed.max() > kept.median()


def test_scores_have_a_group_of_their_own_without_decay(tmp_path) -> None:
    run = trainer(tmp_path, "movement", weight_decay=0.1)
    run.train()
    group = run.optimizer.param_groups[-1]
    assert {id(score) for score in run.sparsifier.scores.parameters()} == {
        id(score) for score in group["params"]
    }
    assert (group["initial_lr"], group["weight_decay"]) == (1e-2, 0.0)
    assert not any("score" in name for name in run.model.state_dict())


def test_soft_movement_approaches_its_target_and_logs_it(tmp_path) -> None:
    # In steps of Adam a score needs 22 of this size to fall below the threshold.
    fast = "sparsity.movement.learning_rate=0.1"
    run = trainer(tmp_path, "soft_movement", "sparsity.allocation=global", fast, max_steps=200)
    run.train()
    history = run.sparsifier.method_run.penalty.history
    assert history[-1].step == 100 and history[-1].gone == pytest.approx(0.75, abs=0.05)
    ramp = [row for row in run.state.log_history if "penalty" in row and 50 < row["step"] < 100]
    assert all(row["penalty"] > 0 for row in ramp)
    assert [row for row in run.state.log_history if "penalty" in row][-1]["penalty"] == 0


def test_what_cannot_learn_scores_refuses() -> None:
    recipe = pruning("sparsity.method=movement", "sparsity.lr_rewind=false")
    with pytest.raises(ValueError, match="nor add learned scores to an optimizer, as method movement does"):
        SparsityCallback(recipe)
    with pytest.raises(ValueError, match="method movement prepares in training what it removes"):
        prune(bert(), 0.5, method="movement")
    with pytest.raises(ValueError, match="movement does not apply to method magnitude"):
        pruning("sparsity.movement={learning_rate: 0.1}")
    with pytest.raises(ValueError, match="revive applies to magnitude only"):
        Recipe.from_dict({"sparsity": {"method": "movement", "revive": True, "schedule": {"final": 0.5}}})


def test_a_scheduler_made_before_the_scores_is_refused(tmp_path) -> None:
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    recipe = pruning("sparsity.method=movement", "sparsity.lr_rewind=false")
    with pytest.raises(ValueError, match="scores of method movement join the optimizer when training begins"):
        SparseTrainer(
            model,
            arguments(tmp_path),
            train_dataset=sentences(),
            recipe=recipe,
            optimizers=(optimizer, scheduler),
        )


def test_training_again_does_not_learn_scores_twice(tmp_path) -> None:
    run = trainer(tmp_path, "movement")
    dense = {name: value.clone() for name, value in run.model.state_dict().items()}
    for _ in range(2):
        run.model.load_state_dict(dense)
        run.train()
        assert len(run.optimizer.param_groups) == 3
        assert {id(score) for score in run.sparsifier.scores.parameters()} == {
            id(score) for score in run.optimizer.param_groups[-1]["params"]
        }


def test_what_is_sparse_already_is_refused(tmp_path) -> None:
    run = trainer(tmp_path, "movement")
    prune(run.model, 0.5)
    run.recipe = run.recipe.model_copy()
    with pytest.raises(ValueError, match="learns what to remove from a dense model, and this one is 50.0%"):
        run.train()


def test_scores_that_nothing_has_taught_remove_nothing(tmp_path) -> None:
    run = trainer(tmp_path, "movement", "sparsity.schedule={shape: one_shot, final: 0.5}")
    with pytest.raises(ValueError, match="removes 50.0% before the first step; let it begin later"):
        run.train()


@pytest.mark.parametrize("method", [*METHODS, "group_lasso"])
def test_frozen_weights_are_refused_when_the_trainer_is_made(tmp_path, method: str) -> None:
    model = bert()
    model.bert.encoder.layer[0].requires_grad_(False)
    recipe = pruning(f"sparsity.method={method}", "sparsity.lr_rewind=false", "sparsity.pattern=4x4")
    with pytest.raises(ValueError, match=r"6 targets are frozen, such as bert.*query.weight; train them, or"):
        SparseTrainer(model, arguments(tmp_path), train_dataset=sentences(), recipe=recipe)
    rest = recipe.override(["sparsity.exclude=['layer.0']"])
    SparseTrainer(model, arguments(tmp_path), train_dataset=sentences(), recipe=rest)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_frozen_after_that_is_refused_before_the_first_step(tmp_path, method: str) -> None:
    run = trainer(tmp_path, method)
    run.model.bert.encoder.layer[1].output.dense.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="1 targets are frozen, such as bert.encoder.layer.1.output.dense"):
        run.train()
    assert run.state.global_step == 0


@pytest.mark.parametrize("method", METHODS)
def test_what_no_batch_reaches_is_named_when_something_is_removed(tmp_path, method: str, caplog) -> None:
    run = trainer(tmp_path, method)
    run.model.bert.encoder.layer[1].forward = lambda hidden, *args, **kwargs: hidden
    run.train()
    said = [record.getMessage() for record in caplog.records if "are all zero" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("The scores of 6 of 12 weights") and "encoder.layer.1" in said[0]
    caplog.clear()
    trainer(tmp_path / "whole", method).train()
    assert "are all zero" not in caplog.text
