"""Directories that a crash cannot leave half done."""

import os
from pathlib import Path

import pytest

from hf_sparse.atomic.directories import replace_directory, replacing_directory, require_writable
from hf_sparse.atomic.file_group import recover_directories


class Killed(BaseException):
    """The process ends here, as far as the files are concerned."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def contents(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_finished_directory_moves_to_its_place(tmp_path: Path) -> None:
    staged = folder(tmp_path / "_saving" / "checkpoint-5", model="weights")
    (staged / "sub").mkdir()
    (staged / "sub" / "state").write_text("state")
    replace_directory(staged, tmp_path / "checkpoint-5")
    assert contents(tmp_path) == {"checkpoint-5/model": "weights", "checkpoint-5/sub/state": "state"}


def test_a_directory_that_is_there_already_is_replaced_whole(tmp_path: Path) -> None:
    folder(tmp_path / "checkpoint-5", model="old", leftover="old")
    replace_directory(folder(tmp_path / "_saving" / "checkpoint-5", model="new"), tmp_path / "checkpoint-5")
    assert contents(tmp_path) == {"checkpoint-5/model": "new"}


def test_everything_reaches_the_disk_before_the_directory_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = folder(tmp_path / "_saving" / "checkpoint-5", model="new", state="new")
    calls = []
    for name in ("fsync", "rename"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, f=original: (calls.append(n), f(*args)))
    replace_directory(staged, tmp_path / "checkpoint-5")
    assert calls == ["fsync", "fsync", "fsync", "rename", "fsync"]


@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_process_killed_while_replacing_loses_neither(
    survived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "checkpoint-5", model="old")
    staged = folder(tmp_path / "_saving" / "checkpoint-5", model="new")
    renames, rename = [], os.rename

    def rename_until_killed(*args: Path) -> None:
        if len(renames) == survived:
            raise Killed
        renames.append(args)
        rename(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_until_killed)
        if survived == 2:
            patch.setattr("shutil.rmtree", killed)
        with pytest.raises(Killed):
            replace_directory(staged, tmp_path / "checkpoint-5")
    recover_directories(tmp_path / "_saving", tmp_path)
    assert contents(tmp_path) == {"checkpoint-5/model": "new" if survived == 2 else "old"}


def test_recovery_clears_what_was_never_finished(tmp_path: Path) -> None:
    folder(tmp_path / "_saving" / "checkpoint-9", half="written")
    folder(tmp_path / "checkpoint-5", model="whole")
    recover_directories(tmp_path / "_saving", tmp_path)
    assert contents(tmp_path) == {"checkpoint-5/model": "whole"}
    assert not (tmp_path / "_saving").exists()


def test_recovery_without_anything_to_recover_does_nothing(tmp_path: Path) -> None:
    recover_directories(tmp_path / "_saving", tmp_path)
    recover_directories(tmp_path / "absent" / "_saving", tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_writable_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "output")
    require_writable(str(tmp_path / "new" / "output"))
    assert list((tmp_path / "new" / "output").iterdir()) == []


def test_what_a_writable_directory_holds_is_left_alone(tmp_path: Path) -> None:
    folder(tmp_path / "output", model="weights")
    require_writable(tmp_path / "output")
    assert contents(tmp_path) == {"output/model": "weights"}


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_output_directory_with_a_file_in_its_way_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written \(.*\); choose another output_dir") as caught:
        require_writable(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_an_output_directory_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so that a mode alone would prove nothing.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    with pytest.raises(
        ValueError, match=r"cannot be written \(Permission denied\); choose another output_dir"
    ):
        require_writable(tmp_path)


def test_a_directory_that_cannot_be_replaced_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "out", model="old")
    renames, rename = [], os.rename

    def refuse_the_second(*args: Path) -> None:
        renames.append(args)
        if len(renames) == 2:
            raise PermissionError(13, "Permission denied")
        rename(*args)

    monkeypatch.setattr(os, "rename", refuse_the_second)
    refusal = pytest.raises(PermissionError)
    with refusal, replacing_directory(tmp_path / "out", lambda held: True) as staged:
        (staged / "model").write_text("new")
    assert contents(tmp_path) == {"out/model": "old"} and len(renames) == 3


def test_a_directory_that_fails_to_be_written_changes_nothing(tmp_path: Path) -> None:
    folder(tmp_path / "out", model="old")
    with (
        pytest.raises(OSError, match="disk full"),
        replacing_directory(tmp_path / "out", lambda held: True) as staged,
    ):
        (staged / "model").write_text("half")
        raise OSError("disk full")
    assert contents(tmp_path) == {"out/model": "old"} and len(list(tmp_path.iterdir())) == 1


def test_a_directory_reached_by_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    folder(tmp_path / "home" / "out", model="old")
    (tmp_path / "link").symlink_to(tmp_path / "home" / "out")
    with replacing_directory(tmp_path / "link", lambda held: True) as staged:
        (staged / "model").write_text("new")
    assert contents(tmp_path / "home") == {"out/model": "new"} and (tmp_path / "link").is_symlink()
