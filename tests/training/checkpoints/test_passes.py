"""Runs that are resumed in a later pass over their data, or after their last step."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainerState

from hf_sparse import SparseTrainer, SparsityCallback
from hf_sparse.training.checkpoints.passes import PASS, _random_state, _read, steps_in_pass
from tests.support.runs import ROWS, checkpoint, differences, outcome, prune, unlisted
from tests.support.tiny import arguments, bert, pruning, sentences

# A pass over 28 rows takes 7 steps.
STEPS = 17


class Stream(IterableDataset):
    """A stream of rows without a length; each pass starts at the first row."""

    passes = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.passes += 1
        yield from sentences(ROWS)


def trainer(folder: Path, data: Any, **changes: Any) -> SparseTrainer:
    settings = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1} | changes
    return SparseTrainer(bert(), arguments(folder, **settings), train_dataset=data, recipe=pruning())


def resumed(folder: Path, step: int, data: Any, **changes: Any) -> SparseTrainer:
    run = trainer(folder.parent / f"from_{step}", data, **changes)
    run.train(resume_from_checkpoint=str(checkpoint(folder, step)))
    return run


GROUPED = {"train_sampling_strategy": "group_by_length"}


@pytest.mark.parametrize(
    ("make", "changes"), [(lambda: sentences(ROWS), GROUPED), (Stream, {})], ids=["grouped", "stream"]
)
def test_a_run_resumed_in_any_pass_ends_bit_for_bit_like_a_straight_one(
    make, changes: dict[str, Any], tmp_path: Path
) -> None:
    straight = trainer(tmp_path / "straight", make(), **changes)
    straight.train()
    # In the first pass, at its end, in the second, at its end, in the third, at the end of the run.
    for step in (3, 7, 10, 14, 16, 17):
        again = resumed(tmp_path / "straight", step, make(), **changes)
        assert list(differences(outcome(straight), outcome(again))) == []
    # Interrupted twice in one pass.
    twice = trainer(tmp_path / "twice", make(), **changes)
    twice.train(resume_from_checkpoint=str(checkpoint(tmp_path / "from_10", 12)))
    assert list(differences(outcome(straight), outcome(twice))) == []


def test_a_checkpoint_that_does_not_know_the_order_of_its_pass_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path / "straight", sentences(ROWS), **GROUPED).train()
    for step in (3, 10):
        (unlisted(checkpoint(tmp_path / "straight", step)) / PASS).unlink()
    with caplog.at_level(logging.WARNING):
        resumed(tmp_path / "straight", 3, sentences(ROWS), **GROUPED)
        assert "in which order" not in caplog.text
        resumed(tmp_path / "straight", 10, sentences(ROWS), **GROUPED)
    assert "checkpoint-10 does not say in which order rows grouped by length were read" in caplog.text


@pytest.mark.parametrize("content", [b"", b"junk", {"python": 1}])
def test_a_state_of_a_pass_that_cannot_be_read_is_named_and_changes_no_generator(
    content: bytes | dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / PASS
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    before = _random_state()

    def same(state: dict[str, Any]) -> bool:
        return list(differences(*({**each, "numpy": list(each["numpy"])} for each in (before, state)))) == []

    assert _read(file) is None
    assert f"{file} is not a state of random generators" in caplog.text
    assert same(_random_state())
    torch.save(before, file)
    assert same(_read(file))


def state(step: int, epoch: float, length: int = STEPS) -> TrainerState:
    return TrainerState(global_step=step, epoch=epoch, max_steps=length)


def test_the_length_of_a_pass_follows_from_what_trainer_counts(caplog: pytest.LogCaptureFixture) -> None:
    assert steps_in_pass(state(5, 5 / 17), 1) is None
    assert steps_in_pass(state(10, 1 + 3 / 17), 1) == 7
    assert steps_in_pass(state(14, 1 + 7 / 17), 1) == 7
    assert steps_in_pass(state(900_005, 3 + 5 / 1_000_000, 1_000_000), 1) == 300_000
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("seen", "accumulation", "message"),
    [
        (state(10, 2 + 3 / 17), 1, "were not all of one length"),
        (state(10, 1 + 6 / 17), 1, "were not all of one length"),
        (state(10, 1 + 3 / 17), 2, "took 7 steps of 2 micro-batches; where some were left over"),
    ],
)
def test_what_cannot_be_found_again_is_said(
    seen: TrainerState, accumulation: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        steps_in_pass(seen, accumulation)
    assert message in caplog.text


def test_a_stream_that_has_had_its_last_step_is_not_read_again(tmp_path: Path) -> None:
    trainer(tmp_path / "straight", Stream()).train()
    begun = []

    class Passes(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(state.epoch)

    data = Stream()
    again = trainer(tmp_path / "again", data)
    again.add_callback(Passes())
    again.train(resume_from_checkpoint=str(checkpoint(tmp_path / "straight", STEPS)))
    assert again.state.global_step == STEPS and data.passes == 0
    assert begun == [2 + 3 / STEPS]


@pytest.mark.parametrize("changes", [{"ignore_data_skip": True}, {"save_strategy": "epoch"}, {}])
def test_a_run_that_is_done_takes_no_step_however_it_is_resumed(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    straight = prune(tmp_path / "straight", max_steps=7, save_strategy="steps", save_steps=7)
    straight.train()
    again = prune(tmp_path / "again", **({"max_steps": 7} | changes))
    again.train(resume_from_checkpoint=str(checkpoint(tmp_path / "straight", 7)))
    assert again.state.global_step == 7
    ours, theirs = outcome(straight), outcome(again)
    assert list(differences(ours["weights"], theirs["weights"])) == []


def test_a_callback_refuses_the_step_that_trainer_would_take_after_the_last(tmp_path: Path) -> None:
    def run(folder: Path, steps: int, resume: Path | None = None) -> None:
        recipe = pruning("sparsity.lr_rewind=false")
        callback = SparsityCallback(recipe, resume_from_checkpoint=resume and str(resume))
        args = arguments(folder, max_steps=steps, save_strategy="steps", save_steps=steps)
        Trainer(bert(), args, train_dataset=sentences(ROWS), callbacks=[callback]).train(
            resume_from_checkpoint=resume and str(resume)
        )

    run(tmp_path, 5)
    with pytest.raises(ValueError, match="has had all of its 5 steps, .*load the model from the checkpoint"):
        run(tmp_path, 5, checkpoint(tmp_path, 5))
    # The end of a pass, where Trainer knows that it is done.
    run(tmp_path / "whole", 7)
    run(tmp_path / "whole", 7, checkpoint(tmp_path / "whole", 7))
