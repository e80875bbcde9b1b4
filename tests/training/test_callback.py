"""SparsityCallback in a plain Trainer."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback

from hf_sparse import Recipe, SparsityCallback, find_targets, measure_sparsity
from hf_sparse.checkpoint.sidecar import read_state
from hf_sparse.sparsity.masks import Masks
from tests.support.runs import checkpoint
from tests.support.tiny import arguments, bert, pruning, same_weights, sentences

RECIPE = pruning("sparsity.lr_rewind=false")


def trainer(folder: Path, callback: SparsityCallback | None = None, extra: tuple = (), **changes) -> Trainer:
    args = arguments(folder, gradient_accumulation_steps=2, weight_decay=0.1, **changes)
    callbacks = [callback or SparsityCallback(RECIPE), *extra]
    return Trainer(bert(), args, train_dataset=sentences(), callbacks=callbacks)


def test_a_plain_trainer_ends_at_exactly_the_sparsity_asked_for(tmp_path: Path) -> None:
    zeros = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs) -> None:
            masks = callback.sparsifier.masks
            assert not masks.nonzero_removed()
            zeros.append(sum(masks.removed(name) for name in masks.targets.names))

    callback = SparsityCallback(RECIPE)
    run = trainer(tmp_path, callback, (Watch(),))
    run.train()
    assert zeros == sorted(zeros) and len(zeros) == 12
    shapes = find_targets(run.model).shapes
    for name, share in measure_sparsity(run.model).per_target.items():
        total = shapes[name][0] * shapes[name][1]
        assert round(share * total) == int(0.9 * total)


@pytest.mark.parametrize("optim", ["sgd", "adafactor", "adamw_torch"])
def test_removed_weights_stay_zero_with_any_optimizer(optim: str, tmp_path: Path) -> None:
    callback = SparsityCallback(RECIPE)
    run = trainer(tmp_path, callback, optim=optim)
    run.train()
    assert not callback.sparsifier.masks.nonzero_removed()


def test_every_checkpoint_has_its_sidecar_with_its_zeros(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_strategy="steps", save_steps=3)
    run.train()
    for step in (3, 6, 9, 12):
        saved = read_state(checkpoint(tmp_path, step))
        assert (saved.step, saved.total_steps, saved.recipe) == (step, 12, RECIPE)
        loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint(tmp_path, step))
        masks = Masks(find_targets(loaded))
        masks.unpack(saved.masks)
        assert not masks.nonzero_removed()
        assert masks.sparsity == pytest.approx(measure_sparsity(loaded).overall, abs=1e-4)


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_resumed_run_equals_a_straight_one(step: int, tmp_path: Path) -> None:
    straight = trainer(tmp_path, save_strategy="steps", save_steps=3)
    straight.train()
    source = str(checkpoint(tmp_path, step))
    resumed = trainer(tmp_path / "resumed", SparsityCallback(RECIPE, resume_from_checkpoint=source))
    resumed.train(resume_from_checkpoint=source)
    assert same_weights(straight.model, resumed.model)
    ours, theirs = (run.optimizer.state_dict()["state"] for run in (resumed, straight))
    for index, moments in theirs.items():
        assert all(torch.equal(ours[index][name], value) for name, value in moments.items())


def test_the_last_checkpoint_of_the_run_itself_needs_no_telling(tmp_path: Path) -> None:
    straight = trainer(tmp_path / "straight")
    straight.train()
    trainer(tmp_path, save_strategy="steps", save_steps=5).train()
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert same_weights(straight.model, resumed.model)


def test_a_changed_run_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, save_strategy="steps", save_steps=5).train()
    other = SparsityCallback(RECIPE.override(["sparsity.schedule.final=0.95"]))
    with pytest.raises(ValueError, match=r"schedule.final was 0.9, is 0.95"):
        trainer(tmp_path, other).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="a run of 12 steps, this run has 20"):
        trainer(tmp_path, max_steps=20).train(resume_from_checkpoint=str(checkpoint(tmp_path, 5)))
    longer = SparsityCallback(RECIPE, allow_schedule_change=True)
    trainer(tmp_path, longer, max_steps=20).train(resume_from_checkpoint=str(checkpoint(tmp_path, 5)))
    assert longer.sparsifier.masks.sparsity == pytest.approx(0.9, abs=1e-3)


def test_a_checkpoint_without_its_sidecar_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, save_strategy="steps", save_steps=5)
    run.train()
    (checkpoint(tmp_path, 10) / "hf_sparse_state.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="hf_sparse_state.safetensors does not exist"):
        trainer(tmp_path).train(resume_from_checkpoint=str(checkpoint(tmp_path, 10)))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(), "needs a recipe with sparsity"),
        (Recipe.preset("prune_ofa_90"), "cannot change the loss, so it cannot distill; use SparseTrainer"),
    ],
    ids=["empty", "distillation"],
)
def test_recipes_that_a_callback_cannot_follow_are_refused(recipe: Recipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparsityCallback(recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size restarts training"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "cannot keep load_best_model_at_end from choosing a model saved before the final sparsity",
        ),
    ],
    ids=["auto_find_batch_size", "load_best_model_at_end"],
)
def test_arguments_that_a_callback_cannot_serve_are_refused(
    changes: dict, message: str, tmp_path: Path
) -> None:
    args = arguments(tmp_path, **changes)
    run = Trainer(
        bert(),
        args,
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        callbacks=[SparsityCallback(RECIPE)],
    )
    with pytest.raises(ValueError, match=message):
        run.train()


def test_a_recipe_that_wants_the_learning_rate_rewound_is_refused() -> None:
    with pytest.raises(ValueError, match="lr_rewind"):
        SparsityCallback(pruning())


def test_a_run_resumed_behind_its_new_ramp_reaches_its_sparsity_at_once(tmp_path: Path) -> None:
    late = pruning("sparsity.lr_rewind=false", "sparsity.schedule={final: 0.9, ramp_end: 10, update_end: 10}")
    trainer(tmp_path, SparsityCallback(late), save_strategy="steps", save_steps=6).train()
    soon = late.override(["sparsity.schedule={final: 0.9, ramp_end: 4, update_end: 4}"])
    callback = SparsityCallback(soon, allow_schedule_change=True)
    run = trainer(tmp_path / "resumed", callback, save_strategy="no")
    callback.resume_from_checkpoint = str(checkpoint(tmp_path, 6))
    run.train(resume_from_checkpoint=str(checkpoint(tmp_path, 6)))
    assert callback.sparsifier.reached(12) and not callback.sparsifier.masks.nonzero_removed()
