"""The list of a checkpoint's files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_sparse.atomic import files
from hf_sparse.checkpoint.sidecar import SavedState, write_state
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.checkpoints.manifest import MANIFEST, check_manifest, write_manifest


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-5"
    (folder / "adapter").mkdir(parents=True)
    save_file({"weight": torch.arange(4.0)}, folder / "model.safetensors")
    (folder / "optimizer.pt").write_bytes(b"moments")
    (folder / "adapter" / "weights").write_bytes(b"adapter")
    write_manifest(folder)
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_as_it_was_saved_passes(checkpoint: Path) -> None:
    check_manifest(checkpoint)
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    assert set(files) == {"adapter/weights", "model.safetensors", "optimizer.pt"}
    assert files["optimizer.pt"]["size"] == 7


def test_what_was_added_later_is_left_alone(checkpoint: Path) -> None:
    (checkpoint / "notes.txt").write_text("the good one")
    check_manifest(checkpoint)


def test_a_checkpoint_without_a_manifest_passes(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()
    flip(checkpoint / "optimizer.pt")
    check_manifest(checkpoint)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "optimizer.pt").unlink(), "without optimizer.pt"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b"Moments"), "optimizer.pt changed"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b"longer moments"), "optimizer.pt changed"),
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors changed"),
        (lambda folder: flip(folder / "adapter" / "weights"), "adapter/weights changed"),
    ],
    ids=["missing", "another", "longer", "one bit", "in a folder"],
)
def test_every_change_is_found_and_named(
    damage: Callable[[Path], None], fault: str, checkpoint: Path
) -> None:
    damage(checkpoint)
    with pytest.raises(
        ValueError, match=rf"is not as it was saved \({fault}\), .*resume from another"
    ) as caught:
        check_manifest(checkpoint)
    assert str(checkpoint) in str(caught.value) and MANIFEST in str(caught.value)


def test_all_faults_are_named_together(checkpoint: Path) -> None:
    flip(checkpoint / "model.safetensors")
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"\(without optimizer.pt; model.safetensors changed\)"):
        check_manifest(checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format_version": 1}',
        '{"format_version": 1, "files": []}',
        '{"format_version": 1, "files": {"a": 1}}',
        '{"format_version": 1, "files": {"a": {"size": 1}}}',
        '{"format_version": 1, "files": {"../a": {"size": 1, "sha256": ""}}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_one_sentence(content: str, checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=f"{MANIFEST} is not a list of files .*or delete it"):
        check_manifest(checkpoint)


def test_a_manifest_of_a_newer_format_asks_for_an_upgrade(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text('{"format_version": 2, "files": {}}')
    with pytest.raises(ValueError, match="has format version 2, this release reads 1; upgrade"):
        check_manifest(checkpoint)


def test_weights_are_hashed_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, sha256 = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (read.append(path.name), sha256(path))[1])
    (checkpoint / MANIFEST).unlink()
    write_state(checkpoint, SavedState(Recipe(), 5, 10, {}))
    write_manifest(checkpoint)
    assert read.count("model.safetensors") == 1 and read.count("optimizer.pt") == 1
    check_manifest(checkpoint)
