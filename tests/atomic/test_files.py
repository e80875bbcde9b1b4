"""Files that a crash cannot leave half done."""

import os
from pathlib import Path

import pytest

from hf_sparse.atomic.files import copy_atomically, create_file, replacing_file, write_atomically


class Killed(BaseException):
    """The process ends here, as far as the files are concerned."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def contents(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_file_is_written_with_the_directories_it_needs(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "file", b"new")
    assert contents(tmp_path) == {"a/b/file": "new"}


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a much longer old content")
    write_atomically(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": "new"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_process_killed_while_writing_leaves_the_old_content(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, call, killed)
    with pytest.raises(Killed):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "old"


def test_content_reaches_the_disk_before_its_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, f=original: (calls.append(n), f(*args)))
    write_atomically(tmp_path / "file", b"new")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert contents(tmp_path) == {"file": "old"}


def test_a_file_is_copied_over_another(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("new")
    (tmp_path / "file").write_text("old")
    copy_atomically(tmp_path / "source", tmp_path / "file")
    assert contents(tmp_path) == {"source": "new", "file": "new"}


@pytest.mark.parametrize("linked", [True, False])
def test_the_first_process_that_creates_a_file_decides_its_content(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not linked:
        monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "new" / "file"
    assert create_file(path, b"first") and not create_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]
