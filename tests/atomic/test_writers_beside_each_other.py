"""Processes that read and write files of one directory at the same time do not get in each other's way."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_sparse.atomic.directory_lock import locked
from hf_sparse.atomic.file_group import STAGING, FileGroup, recover_files, staged_files

GROUP = FileGroup("test-", order=lambda name: (name,))


def write(directory: Path, content: str) -> None:
    with staged_files(directory, GROUP) as staged:
        for name in ("config.json", "weights"):
            (staged / name).write_text(content)


def before_and_after(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], before: bool) -> None:
    """Let a reader act once, right before or after a writer makes its folder."""
    make, acted = tempfile.mkdtemp, []

    def mkdtemp(*args: Any, **kwargs: Any) -> str:
        if before and not acted:
            acted.append(act())
        made = make(*args, **kwargs)
        if not acted:
            acted.append(act())
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)


@pytest.mark.parametrize("before", [True, False])
def test_a_reader_that_recovers_does_not_stop_a_writer_that_begins(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_and_after(monkeypatch, lambda: recover_files(tmp_path, GROUP), before)
    write(tmp_path, "new")
    assert (tmp_path / "weights").read_text() == "new" and not (tmp_path / STAGING).exists()


def test_a_reader_that_looks_at_a_folder_does_not_stop_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def look() -> None:
        (folder,) = (tmp_path / STAGING).iterdir()
        held.append(locked(folder))
        held[0].__enter__()

    before_and_after(monkeypatch, look, before=False)
    write(tmp_path, "new")
    held[0].__exit__(None, None, None)
    assert (tmp_path / "weights").read_text() == "new"


def test_files_are_there_at_every_moment_while_they_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "old")
    replace, seen = os.replace, []

    def watch(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path:
            seen.append([(tmp_path / name).read_text() for name in ("config.json", "weights")])
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write(tmp_path, "new")
    assert seen == [["old", "old"], ["new", "old"]]


def test_a_folder_that_is_always_taken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp

    def taken(*args: Any, **kwargs: Any) -> str:
        made = make(*args, **kwargs)
        os.rmdir(made)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with pytest.raises(OSError, match="deleted as they are made; write to another directory"):
        write(tmp_path, "new")
