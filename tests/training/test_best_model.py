"""Choosing the best model, and stopping early, among models of final sparsity only."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback

from hf_sparse import Recipe, SparseTrainer, measure_sparsity
from hf_sparse.checkpoint.sidecar import read_state
from tests.support.runs import differences
from tests.support.tiny import arguments, bert, expected_zeros, pruning, same_weights, sentences


def worsening(folder: Path, recipe: Recipe, **settings: Any) -> SparseTrainer:
    """A trainer whose evaluation only gets worse, and who chooses the best model at the end."""
    scores = iter(range(100, 0, -1))
    choice = {
        "eval_strategy": "steps",
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
        "greater_is_better": True,
    }
    return SparseTrainer(
        bert(),
        arguments(folder, **(choice | settings)),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        compute_metrics=lambda _: {"score": next(scores)},
        recipe=recipe,
    )


def test_the_best_model_is_one_of_final_sparsity(tmp_path: Path) -> None:
    """An ungated choice would be a model of the ramp."""
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    trainer = worsening(tmp_path, pruning(), eval_steps=1, **saving)
    trainer.train()
    assert trainer.state.best_global_step == 6
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-6")
    assert measure_sparsity(trainer.model).zeros == expected_zeros(trainer.model, 0.9)
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6")
    assert same_weights(trainer.model, best)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-6"]


def test_masks_and_ranges_are_those_of_the_best_model(tmp_path: Path) -> None:
    """Weights still come back between the best model and the last one, and ranges still move."""
    moving = ["sparsity.revive=true", "sparsity.schedule.update_end=11", "quantization={freeze: 12}"]
    trainer = worsening(tmp_path, pruning(*moving), eval_steps=6, save_strategy="steps", save_steps=6)
    trainer.train()
    trainer.save_model()
    best, last, kept = (read_state(tmp_path / part) for part in ("checkpoint-6", "checkpoint-12", ""))
    assert list(differences(kept.masks, best.masks)) == [] != list(differences(last.masks, best.masks))
    mine, ours, theirs = (state.extras["ranges"] for state in (kept, best, last))
    assert list(differences(mine, ours)) == [] != list(differences(theirs, ours))


def test_saving_the_best_saves_during_the_ramp_too(tmp_path: Path) -> None:
    trainer = worsening(tmp_path, pruning(), eval_steps=2, save_strategy="best")
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert trainer.state.best_metric == 98


def test_early_stopping_counts_from_the_final_sparsity_on(tmp_path: Path) -> None:
    scores = iter(range(100, 0, -1))
    trainer = SparseTrainer(
        bert(),
        arguments(
            tmp_path,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            metric_for_best_model="score",
            greater_is_better=True,
            load_best_model_at_end=True,
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        compute_metrics=lambda _: {"score": next(scores)},
        recipe=pruning(),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    assert trainer.state.global_step == 8
