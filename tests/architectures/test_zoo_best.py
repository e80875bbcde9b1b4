"""The best model of a run is the one that was saved, under whatever keys."""

from pathlib import Path

import pytest

from tests.support.tiny import same_weights
from tests.support.zoo import architecture
from tests.support.zoo_runs import recipe, trainer_of


@pytest.mark.parametrize("name", ["GPT-2", "Mixtral", "ViT"])
def test_the_best_model_is_loaded_whole(name: str, tmp_path: Path) -> None:
    scores = iter(range(100, 0, -1))
    trainer = trainer_of(
        architecture(name),
        tmp_path,
        recipe("unstructured", 0.8),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    trainer.compute_metrics = lambda _: {"score": next(scores)}
    trainer.train()
    best = type(trainer.model).from_pretrained(trainer.state.best_model_checkpoint)
    assert trainer.state.best_global_step == 4
    assert same_weights(trainer.model, best)
