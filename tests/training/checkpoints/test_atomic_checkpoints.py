"""Checkpoints of Trainers with a `_save_checkpoint` of their own."""

import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification, Trainer

from hf_sparse import SparseTrainerMixin, find_targets
from hf_sparse.atomic.file_group import STAGING
from hf_sparse.checkpoint.sidecar import SIDECAR
from tests.support.tiny import arguments, bert, expected_zeros, pruning, sentences


class Elsewhere(Trainer):
    """Saves the model alone, in a folder of its own."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.save_model(f"{self.args.output_dir}/step-{self.state.global_step}", _internal_call=True)


class Never(Trainer):
    """Saves nothing while it trains."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        pass


@pytest.mark.parametrize(("kind", "folders"), [(Elsewhere, ["step-12", "step-6"]), (Never, [])])
def test_a_trainer_that_keeps_checkpoints_elsewhere_or_none_trains_to_its_end(
    kind: type[Trainer], folders: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Mixed(SparseTrainerMixin, kind):
        pass

    args = arguments(tmp_path, save_strategy="steps", save_steps=6)
    trainer = Mixed(bert(), args, train_dataset=sentences(), recipe=pruning())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert caplog.text.count("Mixed does not write its checkpoints where its _get_output_dir points") == 1
    assert not (tmp_path / STAGING).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
    for folder in folders:
        model = BertForSequenceClassification.from_pretrained(tmp_path / folder)
        zeros = sum(int((target.weight == 0).sum()) for target in find_targets(model))
        assert zeros == expected_zeros(model, 0.9)
        assert (tmp_path / folder / SIDECAR).is_file()
