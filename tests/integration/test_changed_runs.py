"""Resuming a run whose schedule or length has been changed on purpose."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_sparse import Recipe, SparseTrainer, measure_sparsity
from tests.support.runs import Cut
from tests.support.tiny import arguments, bert, expected_zeros, pruning, sentences


def trainer(
    folder: Path, recipe: Recipe, scores: list[int], *callbacks: TrainerCallback, **changes: Any
) -> SparseTrainer:
    """A run that evaluates and saves at every step, to scores that are given."""
    left = iter(scores)
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
        "greater_is_better": True,
    }
    return SparseTrainer(
        bert(),
        arguments(folder, **(settings | changes)),
        train_dataset=sentences(),
        eval_dataset=sentences(4),
        compute_metrics=lambda _: {"score": next(left)},
        recipe=recipe,
        callbacks=list(callbacks),
        allow_schedule_change=True,
    )


def test_a_run_made_shorter_than_its_ramp_still_reaches_its_sparsity(tmp_path: Path) -> None:
    recipe = pruning(
        "sparsity.schedule.update_end=50%", "sparsity.schedule.every=4", "sparsity.lr_rewind=false"
    )
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, recipe, [1] * 24, Cut(11), max_steps=24).train()
    assert measure_sparsity_of(tmp_path / "checkpoint-11") < expected_zeros(bert(), 0.9)
    resumed = trainer(tmp_path, recipe, [1] * 24, max_steps=16)
    resumed.train(resume_from_checkpoint=True)
    assert measure_sparsity(resumed.model).zeros == expected_zeros(bert(), 0.9)


def test_a_best_model_of_the_old_schedule_does_not_win(tmp_path: Path) -> None:
    """It scored 9, and nothing that follows scores above 5."""
    half, most = pruning("sparsity.schedule.final=0.5"), pruning("sparsity.schedule.ramp_end=10")
    recipe = most.override(["sparsity.schedule.update_end=10"])
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, half, [9] * 12, Cut(8)).train()
    resumed = trainer(tmp_path, recipe, [5, 4, 3, 2])
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.best_global_step == 10
    assert measure_sparsity(resumed.model).zeros == expected_zeros(bert(), 0.9)


def measure_sparsity_of(folder: Path) -> int:
    return measure_sparsity(type(bert()).from_pretrained(folder)).zeros


def test_a_revival_resumed_after_its_last_update_keeps_its_zeros(tmp_path: Path) -> None:
    """Its checkpoint holds moments of the remembered weights, which are remembered no more."""
    recipe = pruning("sparsity.revive=true", "sparsity.schedule.update_end=100%", "sparsity.lr_rewind=false")
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, recipe, [1] * 12, Cut(9)).train()
    earlier = recipe.override(["sparsity.schedule.update_end=8"])
    resumed = trainer(tmp_path, earlier, [1] * 12)
    resumed.train(resume_from_checkpoint=True)
    assert measure_sparsity(resumed.model).zeros == expected_zeros(bert(), 0.9)


def test_a_revival_made_longer_never_has_fewer_zeros(tmp_path: Path) -> None:
    recipe = pruning("sparsity.revive=true", "sparsity.lr_rewind=false", "sparsity.schedule.update_end=50%")
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, recipe, [1] * 24, Cut(5)).train()
    before = measure_sparsity_of(tmp_path / "checkpoint-5")
    resumed = trainer(tmp_path, recipe, [1] * 24, Cut(7), max_steps=24)
    with pytest.raises(KeyboardInterrupt):
        resumed.train(resume_from_checkpoint=True)
    assert measure_sparsity_of(tmp_path / "checkpoint-6") >= before
