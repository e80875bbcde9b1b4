"""Checkpoints and output directories as Trainer pushes them: without secrets and links out of them."""

import json
import logging
from pathlib import Path

import pytest

from hf_sparse.atomic.files import leaves
from hf_sparse.training.checkpoints.push import copy_clean, ignore_private

TOKEN = "hf_" + "a" * 34


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "diary.txt").write_text("private")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "trainer_state.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_checkpoint_is_copied_without_secrets_and_links_that_leave_it(
    run: Path, elsewhere: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "LICENSE").symlink_to(elsewhere / "diary.txt")
    (run / "more").symlink_to(elsewhere)
    (run / "again.json").symlink_to(run / "config.json")
    (run / "inner").mkdir()
    (run / "inner" / "notes.txt").write_bytes(TOKEN.encode("utf-16"))
    (run / "training_args.bin").write_bytes(TOKEN.encode())
    with caplog.at_level(logging.WARNING):
        clean = copy_clean(run, tmp_path / "clean")
    names = {path.relative_to(clean).as_posix() for path in clean.rglob("*") if path.is_file()}
    assert names == {"config.json", "trainer_state.json", "model.safetensors", "again.json"}
    said = " ".join(caplog.messages)
    assert f"{run / 'LICENSE'} leads out of the directory, so it is not pushed with the model" in said
    assert f"{run / 'inner' / 'notes.txt'} holds a token of the Hub" in said and TOKEN not in said


def test_the_hub_is_told_to_leave_them_out_of_a_directory(run: Path, elsewhere: Path) -> None:
    (run / "diary").symlink_to(elsewhere / "diary.txt")
    (run / "data").symlink_to(elsewhere)
    (run / "runs").mkdir()
    (run / "runs" / "my notes [1].txt").write_text(json.dumps({"token": TOKEN}))
    (run / "checkpoint-4").mkdir()
    (run / "checkpoint-4" / "unsent.txt").write_text(TOKEN)
    for _ in range(2):
        ignore_private(run)
    assert (run / ".gitignore").read_text().splitlines() == [
        "training_args.bin",
        "/data",
        "/diary",
        r"/runs/my\ notes\ \[1\].txt",
    ]


def test_links_within_a_directory_and_within_the_cache_of_the_hub_stay(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f", tmp_path / "models--a--b" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1a").write_text("{}")
    (snapshot / "config.json").symlink_to(Path("..") / ".." / "blobs" / "1a")
    (snapshot / "same.json").symlink_to("config.json")
    (snapshot / "other").symlink_to(tmp_path)
    assert not leaves(snapshot / "config.json", snapshot) and not leaves(snapshot / "same.json", snapshot)
    assert leaves(snapshot / "other", snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    assert not leaves(tmp_path / "link" / "config.json", tmp_path / "link")
