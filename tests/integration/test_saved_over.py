"""Models saved over others by processes that are killed meanwhile."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_sparse.atomic.file_group import STAGING
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state
from tests.support.doomed import Moment, cheap_processes
from tests.support.runs import quantize

FILES = "hf_sparse.atomic.file_group"


def save_twice(folder: Path, moment: Moment) -> None:
    """Save a model over another one, and die."""
    trainer = quantize(folder, save_strategy="steps", save_steps=3, max_steps=4)
    trainer.train()
    trainer.save_model()
    with torch.no_grad():
        trainer.model.classifier.bias += 1.0
    moment.arm()
    trainer.save_model()


def bias(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["classifier.bias"]


@pytest.mark.parametrize(
    ("moment", "seen"),
    [
        (Moment("transformers.trainer:Trainer", "_save", 1, after=True), "old"),
        (Moment(FILES, "_move_into", 1), "old"),
        # The first three are files of their own: record and sidecar in the staged directory, the names.
        (Moment("os", "replace", 4, after=True), "mixed"),
        (Moment("os", "replace", 5, after=True), "mixed"),
        (Moment(FILES, "_move_into", 1, after=True), "new"),
    ],
    ids=str,
)
def test_a_model_saved_over_another_is_old_or_new_or_said_to_be_mixed(
    moment: Moment, seen: str, tmp_path: Path
) -> None:
    process = cheap_processes().Process(target=save_twice, args=(tmp_path, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = bias(tmp_path / f"{PREFIX_CHECKPOINT_DIR}-4")
    if seen == "mixed":
        with pytest.raises(ValueError, match=f"{SIDECAR} was saved with other weights: model.safetensors"):
            load_model(str(tmp_path))
        assert not (tmp_path / RECORD).exists()
    else:
        assert torch.equal(load_model(str(tmp_path)).classifier.bias, before + (seen == "new"))
    # The next run in this directory finishes what was complete.
    quantize(tmp_path, save_strategy="steps", save_steps=4, max_steps=4).train(resume_from_checkpoint=True)
    complete = moment.owner != "transformers.trainer:Trainer"
    assert torch.equal(load_model(str(tmp_path)).classifier.bias, before + complete)
    assert (tmp_path / RECORD).is_file() and read_state(tmp_path).weights
    assert not (tmp_path / STAGING).exists()
