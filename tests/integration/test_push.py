"""Uploads during training, which see nothing but whole checkpoints."""

import json
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_sparse import SparseTrainer
from hf_sparse.checkpoint.sidecar import read_state
from tests.support.runs import CHECKPOINT_FILES, checkpoint
from tests.support.tiny import arguments, bert, pruning, sentences

HOME_FILES = {"config.json", "model.safetensors", "hf_sparse_state.safetensors", "hf_sparse_run.json"}
# Of a checkpoint everything but the pickle with the token in it.
PUSHED_FILES = CHECKPOINT_FILES - {"training_args.bin", "hf_sparse_files.json"}


class Upload:
    """Stands for the Hub: notes what lies in a folder when it is uploaded; its jobs end at once or never."""

    def __init__(self, done: bool) -> None:
        self.done = done
        self.folders: list[tuple[str, set[str], int]] = []

    def create_repo(self, name: str, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, folder_path: str, **kwargs: Any) -> Future:
        folder = Path(folder_path)
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        self.folders.append((folder.name, files, read_state(folder).step))
        job: Future = Future()
        if self.done:
            job.set_result(None)
        return job


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Return a function that trains with uploads."""

    def train(done: bool, strategy: str) -> Upload:
        upload = Upload(done)
        monkeypatch.setattr("transformers.trainer.hf_api", lambda: upload)
        args = arguments(
            tmp_path / "run",
            push_to_hub=True,
            hub_model_id="somebody/model",
            hub_strategy=strategy,
            save_strategy="steps",
            save_steps=4,
            save_total_limit=1,
        )
        trainer = SparseTrainer(bert(), args, train_dataset=sentences(), recipe=pruning())
        monkeypatch.setattr(trainer, "_finish_current_push", lambda: None)
        trainer.train()
        return upload

    return train


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_what_is_pushed_is_in_its_place_with_its_sidecar(strategy: str, pushed) -> None:
    folders = pushed(done=True, strategy=strategy).folders
    models = [entry for entry in folders if entry[0] == "run"]
    assert [step for _, _, step in models] == [4, 8, 12]
    assert all(files >= HOME_FILES for _, files, _ in models)
    assert not any("_saving" in name for _, files, _ in folders for name in files)
    whole = [entry for entry in folders if entry[0] != "run"]
    steps = [] if strategy == "every_save" else [4, 8, 12]
    assert whole == [(f"checkpoint-{step}", PUSHED_FILES, step) for step in steps]


def test_a_push_left_out_does_not_part_sidecar_from_weights(pushed, tmp_path: Path) -> None:
    """The first upload never ends, so that Trainer leaves out the others."""
    assert [step for _, _, step in pushed(done=False, strategy="every_save").folders] == [4]
    assert read_state(tmp_path / "run").step == 4
    assert not (tmp_path / "run" / "_saving").exists()


def test_a_model_pushed_at_the_end_gets_no_sidecar_before_its_weights(pushed, tmp_path: Path) -> None:
    assert pushed(done=True, strategy="end").folders == []
    assert not (tmp_path / "run" / "hf_sparse_state.safetensors").exists()


def test_the_best_checkpoint_is_recorded_where_it_lies(tmp_path: Path) -> None:
    scores = iter(range(100, 0, -1))
    trainer = SparseTrainer(
        bert(),
        arguments(
            tmp_path,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            metric_for_best_model="score",
            greater_is_better=True,
            load_best_model_at_end=True,
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        compute_metrics=lambda _: {"score": next(scores)},
        recipe=pruning(),
    )
    trainer.train()
    recorded = {
        step: json.loads((checkpoint(tmp_path, step) / "trainer_state.json").read_text())[
            "best_model_checkpoint"
        ]
        for step in range(2, 13, 2)
    }
    best = str(checkpoint(tmp_path, 6))
    assert recorded == {2: None, 4: None} | dict.fromkeys((6, 8, 10, 12), best)
    assert trainer.state.best_model_checkpoint == best


def test_the_copies_that_were_pushed_are_gone_afterwards(pushed, tmp_path: Path) -> None:
    pushed(done=True, strategy="checkpoint")
    assert not (tmp_path / "run" / "_pushing").exists()
    assert (tmp_path / "run" / "checkpoint-12" / "training_args.bin").is_file()


def test_the_pickle_of_arguments_is_named_to_the_hub_as_one_to_leave_out(pushed, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".gitignore").write_text("*.log\n")
    pushed(done=True, strategy="every_save")
    assert (tmp_path / "run" / ".gitignore").read_text().splitlines() == ["*.log", "training_args.bin"]
