"""Which checkpoints stay, and that nobody else writes among them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_sparse import SparseTrainer
from hf_sparse.atomic import directories
from hf_sparse.atomic.file_group import STAGING
from hf_sparse.training.checkpoints import atomic_checkpoints as checkpoints
from tests.support.runs import Cut, checkpoint, differences, outcome, prune
from tests.support.tiny import arguments, bert, pruning, sentences

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 8}


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


class LaterClock(TrainerCallback):
    """Sets the times of all checkpoints an hour ahead of the clock, as one that goes back would."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for path in Path(args.output_dir).glob("checkpoint-*"):
            ahead = time.time() + 3600 - state.global_step
            os.utime(path, (ahead, ahead))


@pytest.mark.parametrize("limit", [1, 2])
def test_the_newest_checkpoints_are_those_of_the_last_steps_whatever_the_clock(
    limit: int, tmp_path: Path
) -> None:
    run = prune(tmp_path, save_total_limit=limit, callbacks=[LaterClock()], **SAVING)
    run.train()
    assert steps(tmp_path) == [6, 8][-limit:]
    resumed = prune(tmp_path, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert list(differences(outcome(run)["weights"], outcome(resumed)["weights"])) == []


def test_what_was_just_saved_stays_even_beside_later_steps_of_another_run(tmp_path: Path) -> None:
    prune(tmp_path, **(SAVING | {"save_steps": 7, "max_steps": 7})).train()
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, save_total_limit=1, callbacks=[Cut(2)], **SAVING).train()
    assert steps(tmp_path) == [2]


def worsening(folder: Path, **changes: Any) -> SparseTrainer:
    scores = iter(range(100, 0, -1))
    choice = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
        "greater_is_better": True,
    }
    recipe = pruning("sparsity.schedule.ramp_end=2", "sparsity.schedule.update_end=2")
    return SparseTrainer(
        bert(),
        arguments(folder, **(SAVING | choice | changes)),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        compute_metrics=lambda _: {"score": next(scores)},
        recipe=recipe.override(["sparsity.lr_rewind=false"]),
    )


@pytest.mark.parametrize(("limit", "left"), [(1, [2]), (2, [2, 8]), (3, [2, 6, 8])])
def test_the_best_checkpoint_stays(
    limit: int, left: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, discard = [], directories.discard_directory

    def watch(directory: Path, staging: Path) -> None:
        gone.append(directory.name)
        discard(directory, staging)

    monkeypatch.setattr(checkpoints, "discard_directory", watch)
    worsening(tmp_path, save_total_limit=limit).train()
    assert steps(tmp_path) == left
    # Each of them out of sight first, the last one too that goes when the best is loaded.
    assert sorted(gone) == sorted(f"checkpoint-{step}" for step in {2, 4, 6, 8} - set(left))
    assert not (tmp_path / STAGING).exists()


class TrainAnother(TrainerCallback):
    """Starts a second run in the middle of the first."""

    def __init__(self, other: SparseTrainer) -> None:
        self.other, self.refusal = other, ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            with pytest.raises(ValueError, match="is in use by another run") as caught:
                self.other.train()
            self.refusal = str(caught.value)


def test_two_runs_do_not_share_an_output_directory_at_a_time(tmp_path: Path) -> None:
    second = prune(tmp_path, **SAVING)
    another = TrainAnother(second)
    first = prune(tmp_path, callbacks=[another], **SAVING)
    first.train()
    assert str(tmp_path) in another.refusal
    assert steps(tmp_path) == [2, 4, 6, 8]
    # In a notebook: the first one is done, and still there.
    second.train(resume_from_checkpoint=str(checkpoint(tmp_path, 4)))
    assert list(differences(outcome(first), outcome(second))) == []


class Look(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert (Path(args.output_dir) / STAGING / "elsewhere-1" / "checkpoint-9" / "half").is_file()


def test_what_another_process_stages_is_cleared_at_the_start_and_not_while_saving(tmp_path: Path) -> None:
    half = tmp_path / STAGING / "elsewhere-1" / "checkpoint-9" / "half"

    class Write(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            half.parent.mkdir(parents=True)
            half.write_text("")

    prune(tmp_path, callbacks=[Write(), Look()], **SAVING).train()
    assert half.is_file()
    prune(tmp_path, **(SAVING | {"max_steps": 1})).train()
    assert not (tmp_path / STAGING).exists()
