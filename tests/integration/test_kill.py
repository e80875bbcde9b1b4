"""Runs killed at the worst moments, which resume from a whole checkpoint."""

import random
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_utils import get_last_checkpoint

from hf_sparse.atomic.file_group import recover_directories
from tests.support.doomed import Moment, cheap_processes, train, train_until
from tests.support.runs import CHECKPOINT_FILES, checkpoint, differences, outcome, prune

SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}
TRAINER = "transformers.trainer:Trainer"
CHECKPOINTS = "hf_sparse.training.checkpoints.atomic_checkpoints"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    trainer = prune(tmp_path_factory.mktemp("straight"))
    trainer.train()
    return outcome(trainer)


def checkpoints(folder: Path) -> dict[int, set[str]]:
    """Return the files in each checkpoint of a run."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return {int(path.name.split("-")[1]): {file.name for file in path.iterdir()} for path in found}


def resumed(folder: Path, **changes: Any) -> dict[str, Any]:
    trainer = prune(folder, **(SAVING | changes))
    trainer.train(resume_from_checkpoint=True)
    return outcome(trainer)


@pytest.mark.parametrize(
    ("moment", "last"),
    [
        # The second micro-batch of step 5.
        (Moment(TRAINER, "training_step", 9), 4),
        (Moment("torch.optim:AdamW", "step", 5, after=True), 4),
        # The third checkpoint, at the end of the ramp.
        (Moment("hf_sparse.training.parts.part", "write_state", 3, after=True), 4),
        (Moment(TRAINER, "_save", 3, after=True), 4),
        (Moment(TRAINER, "_save_optimizer_and_scheduler", 3, after=True), 4),
        (Moment("transformers.trainer_callback:TrainerState", "save_to_json", 5, after=True), 4),
        (Moment(CHECKPOINTS, "replace_directory", 3), 4),
        (Moment(CHECKPOINTS, "replace_directory", 3, after=True), 6),
    ],
    ids=str,
)
def test_a_killed_run_leaves_whole_checkpoints_and_ends_like_a_straight_one(
    moment: Moment, last: int, straight: dict[str, Any], tmp_path: Path
) -> None:
    train_until(moment, tmp_path, **SAVING)
    assert get_last_checkpoint(str(tmp_path)) == str(checkpoint(tmp_path, last))
    assert all(files == CHECKPOINT_FILES for files in checkpoints(tmp_path).values())
    assert list(differences(straight, resumed(tmp_path))) == []
    assert list(checkpoints(tmp_path)) == [10, 12]
    assert not (tmp_path / "_saving").exists()


@pytest.mark.parametrize(
    ("moment", "more"),
    [
        # In the middle of the oldest checkpoint.
        (Moment("os", "unlink", 3), 0),
        (Moment("hf_sparse.training.checkpoints.atomic_checkpoints", "discard_directory", 1), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [1, 2])
def test_a_run_killed_while_it_deletes_an_old_checkpoint_leaves_whole_ones(
    moment: Moment, more: int, limit: int, straight: dict[str, Any], tmp_path: Path
) -> None:
    train_until(moment, tmp_path, **(SAVING | {"save_total_limit": limit}))
    left = checkpoints(tmp_path)
    assert len(left) == limit + more
    assert all(files == CHECKPOINT_FILES for files in left.values())
    assert list(differences(straight, resumed(tmp_path, save_total_limit=limit))) == []
    assert list(checkpoints(tmp_path)) == [10, 12][-limit:]
    assert not (tmp_path / "_saving").exists()


@pytest.mark.parametrize("after", [False, True], ids=["between the renames", "after both"])
def test_a_checkpoint_is_never_lost_while_it_is_replaced(
    after: bool, straight: dict[str, Any], tmp_path: Path
) -> None:
    train_until(Moment(TRAINER, "training_step", 9), tmp_path, **SAVING)
    again = Moment("os", "rename", 2, after=after)
    train_until(again, tmp_path, resume=str(checkpoint(tmp_path, 2)), **SAVING)
    assert list(checkpoints(tmp_path)) == ([2, 4] if after else [2])
    recover_directories(tmp_path / "_saving", tmp_path)
    assert checkpoints(tmp_path) == {2: CHECKPOINT_FILES, 4: CHECKPOINT_FILES}
    assert list(differences(straight, resumed(tmp_path))) == []


def test_a_run_killed_again_and_again_at_random_ends_like_a_straight_one(
    straight: dict[str, Any], tmp_path: Path
) -> None:
    every_step = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    draw = random.Random(0)
    for _ in range(3):
        before = get_last_checkpoint(str(tmp_path))
        process = cheap_processes().Process(target=train, args=(tmp_path, before is not None, every_step))
        process.start()
        process.join(draw.uniform(0.3, 1.0))
        process.kill()
        process.join()
        last = get_last_checkpoint(str(tmp_path))
        assert last is None or {file.name for file in Path(last).iterdir()} == CHECKPOINT_FILES
    trainer = prune(tmp_path, **every_step)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path)))
    assert list(differences(straight, outcome(trainer))) == []
    assert list(checkpoints(tmp_path)) == [12]
