"""A card that cannot be written is a warning during a run, and an error when it is requested afterwards."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from hf_sparse import SparseTrainer
from tests.support.tiny import arguments, bert, pruning, sentences


class Asking(TrainerCallback):
    """Asks for a card after every step, as Trainers of other libraries do before a checkpoint."""

    trainer: SparseTrainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.create_model_card()


def test_whatever_goes_wrong_is_a_warning_while_it_trains_and_an_error_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = ["the disk is full"] * 2 + ["no such font"] * 3

    def write_card(*_: Any, **__: Any) -> None:
        raise OSError(reasons.pop(0))

    monkeypatch.setattr("hf_sparse.training.trainer.write_card", write_card)
    asking = Asking()
    asking.trainer = trainer = SparseTrainer(
        bert(num_hidden_layers=1),
        arguments(tmp_path, max_steps=4),
        train_dataset=sentences(16),
        recipe=pruning(),
        callbacks=[asking],
    )
    trainer.train()
    told = [line.getMessage() for line in caplog.records if "No card" in line.getMessage()]
    assert [line.partition(". ")[0] for line in told] == [
        "No card is written for now: the disk is full",
        "No card is written for now: no such font",
    ]
    assert all("trainer.create_model_card() writes one" in line for line in told)
    with pytest.raises(OSError, match="no such font"):
        trainer.create_model_card()
