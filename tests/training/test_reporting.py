"""Experiment trackers show the name and all settings of the recipe."""

from pathlib import Path

import pytest

from hf_sparse import Recipe, SparseTrainer
from tests.support import trackers
from tests.support.tiny import arguments, bert, sentences

PRESET = Recipe.preset("gmp_finetune")


def train(folder: Path, report_to: str, recipe: Recipe | None = PRESET) -> None:
    args = arguments(folder, report_to=[report_to], max_steps=2)
    SparseTrainer(bert(), args, train_dataset=sentences(8), recipe=recipe).train()


def test_wandb_and_trackio_have_it_in_their_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, trackio = trackers.wandb(monkeypatch), trackers.trackio(monkeypatch)
    for name in ("wandb", "trackio"):
        train(tmp_path, name)
    for config in (wandb.config, trackio.config):
        assert config["learning_rate"] == 1e-3
        assert config["hf_sparse"]["recipe"] == "gmp_finetune"
        schedule = PRESET.sparsity.schedule
        assert config["hf_sparse"]["sparsity"]["schedule"]["final"] == schedule.final
        # Defaults, too: two runs can be compared.
        assert config["hf_sparse"]["sparsity"]["schedule"]["shape"] == schedule.shape


def test_tensorboard_shows_it_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = trackers.tensorboard(monkeypatch)
    train(tmp_path, "tensorboard")
    assert "    recipe: gmp_finetune\n    sparsity:\n" in texts["hf_sparse"] and "args" in texts


def test_a_recipe_of_ones_own_is_called_custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trackio = trackers.trackio(monkeypatch)
    train(tmp_path, "trackio", PRESET.override(["sparsity.schedule.final=0.5"]))
    held = trackio.config["hf_sparse"]
    assert held["recipe"] == "custom" and held["sparsity"]["schedule"]["final"] == 0.5


def test_without_a_recipe_they_hold_what_trainer_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio, texts = trackers.trackio(monkeypatch), trackers.tensorboard(monkeypatch)
    for name in ("trackio", "tensorboard"):
        train(tmp_path, name, None)
    assert "hf_sparse" not in trackio.config and "hf_sparse" not in texts
