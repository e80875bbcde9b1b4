"""Models that are saved over others: either the old one or the new one is there."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_sparse.atomic import directories, file_group
from hf_sparse.atomic.directories import discard_directory
from hf_sparse.atomic.file_group import STAGING, recover_directories, require_same_disk, staged_files
from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import SIDECAR
from hf_sparse.training.checkpoints.atomic_checkpoints import MODEL_FILES

OLD = {"model.safetensors": "old", SIDECAR: "old", RECORD: "old", "config.json": "old"}
NEW = dict.fromkeys(OLD, "new") | {"tokenizer.json": "new", "adapter/weights": "new"}


class Killed(BaseException):
    """The process ends here, as far as the files are concerned."""


def write(directory: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


def contents(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}


def kill_at(call: int, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the process die before the n-th move; return the names that were moved, as they are."""
    moved, replace = [], os.replace

    def move(source: Path, target: Path) -> None:
        # Those of other names are files written by themselves.
        if Path(source).name == Path(target).name:
            if len(moved) == call:
                raise Killed
            moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, name, move)
    return moved


def test_a_model_takes_the_place_of_another_and_other_files_stay(tmp_path: Path) -> None:
    write(tmp_path, OLD | {"checkpoint-5/model.safetensors": "kept", "notes.txt": "kept"})
    with staged_files(tmp_path, MODEL_FILES) as staged:
        write(staged, NEW)
        assert contents(tmp_path).items() >= OLD.items()
    kept = {"checkpoint-5/model.safetensors": "kept", "notes.txt": "kept"}
    assert contents(tmp_path) == NEW | kept
    assert not (tmp_path / STAGING).exists()


def test_a_model_that_cannot_be_saved_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with pytest.raises(OSError, match="disk full"), staged_files(tmp_path, MODEL_FILES) as staged:
        write(staged, {"model.safetensors": "half"})
        raise OSError("disk full")
    assert contents(tmp_path) == OLD
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize("moves", range(len(NEW)))
def test_a_model_that_was_complete_is_moved_by_the_next_run(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OLD)
    with monkeypatch.context() as patch:
        moved = kill_at(moves, "replace", patch)
        with pytest.raises(Killed), staged_files(tmp_path, MODEL_FILES) as staged:
            write(staged, NEW)
    # The sidecar goes first, since it holds the hashes of its weights, the record last.
    assert moved[:1] == [SIDECAR][:moves]
    assert not (tmp_path / RECORD).exists()
    recover_directories(tmp_path / STAGING, tmp_path, MODEL_FILES)
    assert contents(tmp_path) == NEW
    recover_directories(tmp_path / STAGING, tmp_path, MODEL_FILES)
    assert contents(tmp_path) == NEW


def test_a_model_that_was_not_complete_is_cleared_away(tmp_path: Path) -> None:
    write(tmp_path, OLD | {f"{STAGING}/model-x/new/model.safetensors": "half"})
    recover_directories(tmp_path / STAGING, tmp_path, MODEL_FILES)
    assert contents(tmp_path) == OLD


def test_what_a_process_is_saving_is_left_to_it(tmp_path: Path) -> None:
    with staged_files(tmp_path, MODEL_FILES) as staged:
        write(staged, {"model.safetensors": "new"})
        recover_directories(tmp_path / STAGING, tmp_path, MODEL_FILES)
    assert contents(tmp_path) == {"model.safetensors": "new"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.safetensors", "model-00001-of-00001.safetensors model.safetensors.index.json"),
        ("model-00001-of-00001.safetensors model.safetensors.index.json", "model.safetensors"),
        ("model-00001-of-00003.safetensors", "model-00001-of-00002.safetensors"),
    ],
)
def test_weights_of_the_model_before_are_not_loaded_for_the_new_ones(
    old: str, new: str, tmp_path: Path
) -> None:
    mine = {"model_old.safetensors": "mine", "adapter_model.safetensors": "mine"}
    write(tmp_path, dict.fromkeys(old.split(), "old") | mine)
    with staged_files(tmp_path, MODEL_FILES) as staged:
        write(staged, dict.fromkeys(new.split(), "new"))
    assert contents(tmp_path) == dict.fromkeys(new.split(), "new") | mine


def test_a_card_that_is_there_can_be_updated(tmp_path: Path) -> None:
    write(tmp_path, {"README.md": "mine"})
    with staged_files(tmp_path, MODEL_FILES) as staged, open(staged / "README.md", "a") as card:
        card.write(", and more")
    assert contents(tmp_path) == {"README.md": "mine, and more"}


def test_nothing_of_a_directory_is_left_under_its_name_while_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"checkpoint-5/model": "old", "checkpoint-6/model": "new"})

    def killed(path: Path, **_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(directories.shutil, "rmtree", killed)
        discard_directory(tmp_path / "checkpoint-5", tmp_path / STAGING / "here-1")
    assert not (tmp_path / "checkpoint-5").exists()
    recover_directories(tmp_path / STAGING, tmp_path, MODEL_FILES)
    assert contents(tmp_path) == {"checkpoint-6/model": "new"}
    assert not (tmp_path / STAGING).exists()


def test_a_directory_that_cannot_be_deleted_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    discard_directory(tmp_path / "checkpoint-5", tmp_path / STAGING)
    assert "checkpoint-5 is one more than save_total_limit, and cannot be deleted" in caplog.text


def test_staging_on_another_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_same_disk(tmp_path)
    (tmp_path / STAGING).mkdir()
    require_same_disk(tmp_path)
    monkeypatch.setattr(file_group, "_disk", lambda path: path.name == STAGING)
    with pytest.raises(ValueError, match="_saving lies on another file system than .*; delete that link"):
        require_same_disk(tmp_path)


def test_a_sidecar_of_other_weights_leaves_with_them(tmp_path: Path) -> None:
    def save(weights: bytes) -> bool:
        with staged_files(tmp_path, MODEL_FILES) as place:
            (place / "model.safetensors").write_bytes(weights)
        return (tmp_path / SIDECAR).exists()

    save(b"old")
    known = json.dumps({"model.safetensors": hashlib.sha256(b"old").hexdigest()})
    save_file({"masks/a": torch.zeros(1, dtype=torch.uint8)}, tmp_path / SIDECAR, {"weights": known})
    # Saved again as it was, by a run that has no recipe.
    assert save(b"old")
    assert not save(b"new")
    # One that cannot be read stays for those who ask.
    (tmp_path / SIDECAR).write_bytes(b"damaged")
    assert save(b"newer")


def test_an_adapter_that_stays_beside_a_whole_model_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, {"adapter_config.json": "old"})
    with staged_files(tmp_path, MODEL_FILES) as place:
        write(place, NEW)
    assert contents(tmp_path) == NEW | {"adapter_config.json": "old"}
    assert "holds an adapter from an earlier save" in caplog.text
