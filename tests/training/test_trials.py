"""Each trial of a hyperparameter search follows the recipe values it was given."""

from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification, TrainerCallback

from hf_sparse import Recipe, SparseTrainer, measure_sparsity
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support import trackers
from tests.support.tiny import arguments, bert, pruning, sentences

BASE = pruning("sparsity.schedule.final=0.8")


class Watching(TrainerCallback):
    """Keeps the recipe and the outcome of a trial."""

    def __init__(self, look: Any) -> None:
        self.look, self.seen = look, []

    def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
        self.seen.append(self.look(model))


def small(seed: int = 0) -> BertForSequenceClassification:
    return bert(seed, num_hidden_layers=1)


def trainer_of(folder: Path, look: Any = None, recipe: Recipe = BASE, **parts: Any) -> SparseTrainer:
    return SparseTrainer(
        model_init=lambda: small(),
        args=arguments(folder, max_steps=6),
        train_dataset=sentences(24),
        eval_dataset=sentences(8),
        recipe=recipe,
        callbacks=[Watching(look or (lambda model: round(measure_sparsity(model).overall, 2)))],
        **parts,
    )


def search(trainer: SparseTrainer, **values: list[Any]) -> list[Any]:
    """Try all values of each key, written with two underscores for a dot; return what each trial saw."""
    import optuna

    space = {key.replace("__", "."): choices for key, choices in values.items()}
    trainer.hyperparameter_search(
        hp_space=lambda trial: {key: trial.suggest_categorical(key, found) for key, found in space.items()},
        sampler=optuna.samplers.GridSampler(space, seed=0),
        n_trials=max(len(found) for found in space.values()),
        backend="optuna",
    )
    (watching,) = (each for each in trainer.callback_handler.callbacks if isinstance(each, Watching))
    return watching.seen


def test_each_trial_has_the_sparsity_it_asks_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(tmp_path)
    assert sorted(search(trainer, sparsity__schedule__final=[0.5, 0.9])) == [0.5, 0.9]
    assert "no corresponding field" not in caplog.text


def test_afterwards_the_recipe_is_the_one_it_was(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    search(trainer, sparsity__schedule__final=[0.5])
    assert trainer.recipe == BASE
    trainer.train()
    assert measure_sparsity(trainer.model).overall == pytest.approx(0.8, abs=0.01)


def test_what_the_best_run_had_is_set_on_the_arguments(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    search(trainer, sparsity__schedule__final=[0.5])
    for name, value in {"learning_rate": 0.002, "sparsity.schedule.final": 0.5}.items():
        setattr(trainer.args, name, value)
    trainer.train()
    assert measure_sparsity(trainer.model).overall == pytest.approx(0.5, abs=0.01)
    assert trainer.recipe == BASE.override(["sparsity.schedule.final=0.5"])
    assert search(trainer, sparsity__schedule__final=[0.9])[-1] == 0.9


def test_training_arguments_are_set_as_before(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    assert search(trainer, learning_rate=[0.002], sparsity__schedule__final=[0.5]) == [0.5]
    assert trainer.args.learning_rate == 0.002


def test_a_trial_may_quantize_or_not_and_prune_or_not(tmp_path: Path) -> None:
    def look(model: Any) -> tuple[float, int]:
        return round(measure_sparsity(model).overall, 1), len(quantized_layers(model))

    trainer = trainer_of(tmp_path, look, BASE.override(["quantization.weights=int8_per_channel"]))
    assert search(trainer, quantization__weights=["int4_per_channel"], sparsity=[None]) == [(0.0, 6)]
    assert search(trainer, quantization=[None]) == [(0.0, 6), (0.8, 0)]


def test_a_trial_may_weigh_the_teacher(tmp_path: Path) -> None:
    recipe = BASE.override(["distillation.logits=1.0"])
    trainer = trainer_of(
        tmp_path, lambda _: trainer.distiller.weights["logits"], recipe, teacher=small(seed=1)
    )
    assert sorted(search(trainer, distillation__logits=[0.25, 0.75])) == [0.25, 0.75]
    assert trainer.recipe == recipe


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("sparsity__schedule__fnal", 0.5, "sparsity.schedule.fnal is not a recipe key; did you mean final"),
        ("sparsity__schedule__final", 1.5, "sparsity.schedule.final is 1.5: a sparsity is the share"),
        ("sparsity__pattern__rows", 4, "'sparsity.pattern.rows=4': pattern is a value, not a group"),
    ],
)
def test_what_the_recipe_cannot_take_is_refused_by_its_key(
    tmp_path: Path, key: str, value: float, complaint: str
) -> None:
    trainer = trainer_of(tmp_path)
    with pytest.raises(ValueError, match="cannot take what a trial sets") as refusal:
        search(trainer, **{key: [value]})
    assert complaint in str(refusal.value) and trainer.state.global_step == 0


def test_sweeps_of_other_backends_give_a_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = ({"sparsity.schedule.final": 0.5}, {"sparsity.schedule.final": 0.7, "learning_rate": 0.002})
    wandb = trackers.wandb(monkeypatch, trials)
    trainer = trainer_of(tmp_path)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"method": "random", "metric": {}, "parameters": {}},
        n_trials=2,
        backend="wandb",
    )
    (watching,) = (each for each in trainer.callback_handler.callbacks if isinstance(each, Watching))
    assert watching.seen == [0.5, 0.7] and trainer.args.learning_rate == 0.002
    assert best.hyperparameters["sparsity.schedule.final"] in (0.5, 0.7)
    held = [config["hf_sparse"] for config in wandb.configs if "hf_sparse" in config]
    assert [each["sparsity"]["schedule"]["final"] for each in held] == [0.5, 0.7]
    # The model of the last trial is still there, and is what it was trained as.
    assert trainer.recipe.sparsity.schedule.final == 0.7
