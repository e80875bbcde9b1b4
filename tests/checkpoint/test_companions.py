"""Directories that may be replaced, and those that may not."""

from pathlib import Path

import pytest

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.companions import holds_only

OWN = {"model.onnx": "old", "model.onnx.data": "old"}
COMPANIONS = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def is_ours(directory: Path) -> bool:
    return holds_only(directory, *OWN)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in [*OWN, *COMPANIONS]:
        (folder / name).write_text("old")
    return folder


def test_an_earlier_result_with_its_companions_is_replaced_whole(earlier: Path) -> None:
    with replacing_directory(earlier, is_ours) as staged:
        (staged / "model.onnx").write_text("new")
    assert [file.name for file in earlier.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("other", ["notes.txt", "model.safetensors", "training_args.bin", ".gitattributes"])
def test_any_other_file_is_in_the_way(earlier: Path, other: str) -> None:
    (earlier / other).write_text("mine")
    with pytest.raises(ValueError, match="holds something else, which would be lost"):
        require_free(earlier, is_ours)


@pytest.mark.parametrize("folder", [".git", "packed", "checkpoint-500", "model.onnx.d"])
def test_so_is_a_folder(earlier: Path, folder: str) -> None:
    (earlier / folder).mkdir()
    with (
        pytest.raises(ValueError, match="holds something else, which would be lost"),
        replacing_directory(earlier, is_ours),
    ):
        pass
    assert (earlier / folder).is_dir() and (earlier / "model.onnx").read_text() == "old"


def test_without_a_test_of_what_is_ours_nothing_is_replaced(earlier: Path) -> None:
    with (
        pytest.raises(ValueError, match="is not empty, and what it holds is not replaced"),
        replacing_directory(earlier),
    ):
        pass
    assert (earlier / "model.onnx").read_text() == "old"


def test_an_empty_directory_is_free(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "new") as staged:
        (staged / "model.onnx").write_text("new")
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    with pytest.raises(ValueError, match="is not empty"):
        require_free(tmp_path / "new" / "model.onnx")
