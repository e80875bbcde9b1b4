"""Uploads during training, which see nothing but whole checkpoints."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from runs import CHECKPOINT_FILES, checkpoint
from tiny import arguments, bert, pruning, sentences
from transformers import Trainer

from hf_sparse import SparseTrainer
from hf_sparse.training.state import read_state

HOME_FILES = {"config.json", "model.safetensors", "hf_sparse_state.safetensors", "training_args.bin"}


class Upload:
    """Stands for the Hub: notes what lies in each folder when it is uploaded."""

    def __init__(self, done: bool) -> None:
        self.done = done
        self.folders: list[tuple[Path, set[str], int]] = []

    def upload_folder(self, folder_path: str, **kwargs: Any) -> Future:
        folder = Path(folder_path)
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        self.folders.append((folder, files, read_state(folder).step))
        future: Future = Future()
        if self.done:
            future.set_result(None)
        return future

    def create_repo(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""


@pytest.fixture
def pushing(monkeypatch: pytest.MonkeyPatch):
    """Return a function that trains with uploads of a kind that ends at once, or never."""

    def train(folder: Path, done: bool, strategy: str) -> Upload:
        upload = Upload(done)
        monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, **kwargs: None)
        monkeypatch.setattr(Trainer, "push_to_hub", lambda self, **kwargs: None)
        monkeypatch.setattr(Trainer, "_finish_current_push", lambda self: None)
        replace_api(monkeypatch, upload)
        args = arguments(
            folder,
            push_to_hub=True,
            hub_strategy=strategy,
            save_strategy="steps",
            save_steps=4,
            save_total_limit=1,
        )
        trainer = SparseTrainer(bert(), args, train_dataset=sentences(), recipe=pruning())
        trainer.hub_model_id = "somebody/model"
        trainer.train()
        return upload

    return train
