"""Resuming refuses damaged or incomplete checkpoints, and other training arguments."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.run_record import RECORD, changed_settings, read_record
from hf_sparse.training.checkpoints.resume import check_settings
from tests.support.runs import checkpoint, unlisted
from tests.support.tiny import arguments, bert, pruning, sentences


def check(folder: Path, resumed: SparseTrainer) -> None:
    check_settings(folder, resumed, resumed.recipe, resumed.allow_schedule_change)


SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


def trainer(
    folder: Path, recipe: Recipe | None = None, allow: bool = False, rows: int = 48, **changes: Any
) -> SparseTrainer:
    return SparseTrainer(
        bert(),
        arguments(folder, **(SAVING | changes)),
        train_dataset=sentences(rows),
        recipe=pruning() if recipe is None else recipe,
        allow_schedule_change=allow,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    trainer(folder).train()
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """Return the checkpoint of step 4, for a test to damage."""
    shutil.copytree(checkpoint(run, 4), checkpoint(tmp_path, 4))
    return checkpoint(tmp_path, 4)


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "optimizer.pt").write_bytes(content)


def mix(name: str) -> Callable[[Path, Path], None]:
    return lambda folder, run: shutil.copy(checkpoint(run, 2) / name, folder)


def lose(name: str) -> Callable[[Path, Path], None]:
    return lambda folder, run: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lose("optimizer.pt"), "without optimizer.pt"),
        (lose("scheduler.pt"), "without scheduler.pt"),
        (lose("rng_state.pth"), "without rng_state.pth"),
        (mix("optimizer.pt"), "optimizer.pt changed"),
        (mix("model.safetensors"), "model.safetensors changed"),
        (mix("hf_sparse_state.safetensors"), "hf_sparse_state.safetensors changed"),
        (lambda folder, run: lose_a_tensor(folder), "model.safetensors changed"),
        (lambda folder, run: flip_a_bit(folder), "optimizer.pt changed"),
    ],
)
def test_a_checkpoint_that_lost_or_mixed_files_is_refused(
    damage: Callable[[Path, Path], None], fault: str, copied: Path, run: Path, tmp_path: Path
) -> None:
    damage(copied, run)
    again = trainer(tmp_path)
    before = {name: value.clone() for name, value in again.model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"checkpoint-4 is not as it was saved \({fault}\)"):
        again.train(resume_from_checkpoint=True)
    assert all(torch.equal(value, before[name]) for name, value in again.model.state_dict().items())


def test_with_an_empty_recipe_a_changed_checkpoint_is_said_and_resumed_as_trainer_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, Recipe()).train()
    (checkpoint(tmp_path, 4) / "optimizer.pt").unlink()
    again = trainer(tmp_path / "again", Recipe())
    with caplog.at_level(logging.WARNING):
        again.train(resume_from_checkpoint=str(checkpoint(tmp_path, 4)))
    assert again.state.global_step == 6
    assert "checkpoint-4 is not as it was saved (without optimizer.pt)" in caplog.text


def test_a_checkpoint_without_a_manifest_resumes_and_its_gaps_are_named(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unlisted(copied)
    again = trainer(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6 and "lacks" not in caplog.text
    for name in ("optimizer.pt", "rng_state.pth"):
        (copied / name).unlink()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path / "again").train(resume_from_checkpoint=str(copied))
    assert "checkpoint-4 lacks optimizer.pt, rng_state.pth: the run will differ from" in caplog.text


def test_a_checkpoint_of_a_plain_trainer_resumes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = Trainer(bert(), arguments(tmp_path, **SAVING), train_dataset=sentences())
    plain.train()
    again = trainer(tmp_path / "again", Recipe())
    with caplog.at_level(logging.WARNING, "hf_sparse"):
        again.train(resume_from_checkpoint=str(checkpoint(tmp_path, 4)))
    assert caplog.text == ""
    assert all(
        torch.equal(value, again.model.state_dict()[name]) for name, value in plain.model.state_dict().items()
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chekpoint-4", "no such directory; .*such as checkpoint-6 beside it"),
        ("nowhere/checkpoint-4", "no such directory; name one that is there$"),
        ("", "it lacks trainer_state.json, like a saved model; resume from a checkpoint-N"),
    ],
)
@pytest.mark.parametrize("recipe", [pruning(), Recipe()], ids=["pruned", "empty"])
def test_what_is_no_checkpoint_is_called_that(recipe: Recipe, name: str, message: str, run: Path) -> None:
    with pytest.raises(ValueError, match=f"Can't find a valid checkpoint at .*: {message}"):
        trainer(run / "unused", recipe).train(resume_from_checkpoint=str(run / name))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed was 42, is 1"),
        ({"data_seed": 7}, "data_seed was None, is 7"),
        ({"per_device_train_batch_size": 8}, "per_device_train_batch_size was 4, is 8"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1, is 2"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type was linear, is cosine"),
        ({"bf16": True}, "bf16 was False, is True"),
        ({"optim": "sgd", "max_grad_norm": 2.0}, "optim was .*, is sgd; max_grad_norm was 1.0, is 2.0"),
        ({"rows": 40}, "train_samples was 48, is 40"),
        (
            {"learning_rate": 5e-4, "weight_decay": 0.1},
            "learning_rate was 0.001, is 0.0005; weight_decay was 0.0, is 0.1.*"
            "optimizer of the checkpoint keeps its own learning_rate, weight_decay",
        ),
    ],
)
def test_changed_training_arguments_are_named(
    changes: dict[str, Any], said: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = trainer(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"other training arguments .*{said}") as caught:
        check(checkpoint(run, 4), changed)
    assert "resume with its own, or pass allow_schedule_change" in str(caught.value)
    for changed in (trainer(tmp_path, allow=True, **changes), trainer(tmp_path, Recipe(), **changes)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check(checkpoint(run, 4), changed)
        assert "was written with other training arguments" in caplog.text


def test_changed_training_arguments_are_refused_before_the_first_step(run: Path, tmp_path: Path) -> None:
    changed = trainer(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"checkpoint-4 was written with other .*\(seed was 42, is 1\)"):
        changed.train(resume_from_checkpoint=str(checkpoint(run, 4)))
    assert changed.state.global_step == 4


def test_another_number_of_processes_is_a_change(run: Path, tmp_path: Path) -> None:
    record = read_record(checkpoint(run, 4))
    record["arguments"]["processes"] = 2
    assert changed_settings(record, trainer(tmp_path)) == {"processes": (2, 1)}


def test_what_an_older_record_does_not_know_is_no_change(copied: Path, tmp_path: Path) -> None:
    record = read_record(copied)
    del record["arguments"]["data_seed"], record["train_samples"]
    assert changed_settings(record, trainer(tmp_path, data_seed=7, rows=40)) == {}
    (copied / RECORD).unlink()
    check(copied, trainer(tmp_path, seed=1))


def test_a_record_that_is_none_is_refused_and_with_an_empty_recipe_named(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / RECORD).write_text("none")
    with pytest.raises(ValueError, match="is not a valid record of a run"):
        check(copied, trainer(tmp_path))
    check(copied, trainer(tmp_path, Recipe()))
    assert "is not a valid record of a run" in caplog.text
