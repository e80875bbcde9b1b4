"""Processes that are killed at each of their renames, and the state for the next reader or writer."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.atomic.file_group import STAGING, recover_directories, recover_files
from tests.atomic import writers

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("writers.py")
OLD, NEW = (dict.fromkeys(writers.NAMES, content) for content in ("old", "new"))

Recovery = Callable[[Path], None]


def contents(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}


def die(writer: str, folder: Path, call: int, when: str) -> bool:
    """Run a writer that is to die; return whether it did, since it had so many renames to make."""
    command = [sys.executable, str(SCRIPT), writer, str(folder), str(call), when]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def kills(writer: str, folder: Path, prepare: Callable[[Path], object]) -> Iterator[int]:
    """Kill a writer before and after each of its renames, each time in a folder made anew."""
    call = 0
    while True:
        call += 1
        for when in ("before", "after"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            prepare(folder)
            if not die(writer, folder, call, when):
                return
            yield call


def old_directory(folder: Path) -> None:
    writers.fill(folder / "out", "old")


def test_a_file_is_old_or_new_and_can_be_written_again(tmp_path: Path) -> None:
    seen = []
    for _ in kills("file", tmp_path / "home", lambda folder: (folder / "out").write_text("old")):
        seen.append((tmp_path / "home" / "out").read_text())
        writers.write_file(tmp_path / "home")
        assert (tmp_path / "home" / "out").read_text() == "new"
    assert seen == ["old", "new"]


def test_a_new_directory_is_whole_or_absent_and_can_be_written_again(tmp_path: Path) -> None:
    home, seen = tmp_path / "home", []
    for _ in kills("directory", home, lambda folder: None):
        recover_directory(home / "out")
        seen.append(contents(home / "out") if (home / "out").exists() else None)
        writers.write_directory(home)
        assert [path.name for path in home.iterdir()] == ["out"] and contents(home / "out") == NEW
    assert seen == [None, NEW]


def test_a_replaced_directory_is_the_old_or_the_new_one_for_its_next_reader(tmp_path: Path) -> None:
    home, seen = tmp_path / "home", []
    for call in kills("directory", home, old_directory):
        before = (home / "out").exists()
        recover_directory(home / "out")
        seen.append((call, before, contents(home / "out")))
    # Between the renames there is none until somebody looks.
    assert seen == [(1, True, OLD), (1, False, OLD), (2, False, OLD), (2, True, NEW)]


def test_a_replaced_directory_can_be_written_again_and_nothing_else_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for _ in kills("directory", home, old_directory):
        writers.write_directory(home)
        assert [path.name for path in home.iterdir()] == ["out"] and contents(home / "out") == NEW


def test_a_writer_that_recovers_refuses_what_it_would_have_refused_before(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for call in kills("directory", home, old_directory):
        if call == 2:
            break
    (home / "out").mkdir(exist_ok=True)
    (home / "out" / "diary").write_text("mine")
    with pytest.raises(ValueError, match="holds something else, which would be lost"):
        writers.write_directory(home)
    assert contents(home / "out") == {"diary": "mine"}


@pytest.mark.parametrize(
    "recover",
    [
        lambda home: recover_files(home, writers.GROUP),
        lambda home: recover_directories(home / STAGING, home, writers.GROUP),
        # By somebody who has not heard of the group.
        lambda home: recover_directories(home / STAGING, home),
        lambda home: writers.write_group(home.parent),
    ],
    ids=["reader", "run", "stranger", "writer"],
)
def test_a_group_of_files_is_completed_once_it_was_whole(recover: Recovery, tmp_path: Path) -> None:
    home, seen = tmp_path / "home", []
    for call in kills("group", home, old_directory):
        found = contents(home / "out")
        # The last file stands for all of them.
        if found.get("weights") == "new":
            assert found.items() >= NEW.items()
        recover(home / "out")
        seen.append(contents(home / "out") == NEW)
        assert contents(home / "out") in (OLD, NEW) and not (home / "out" / STAGING).exists()
        assert seen[-1] or call < 3
    # The list of names, the folder when it is whole, four files; each before and after.
    assert len(seen) == 12 and sum(seen) >= 9


def test_a_recovery_that_is_killed_is_recovered_from(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        old_directory(folder)
        assert die("group", folder, 3, "before")

    home, calls = tmp_path / "home", []
    for call in kills("recovery", home, interrupted):
        assert contents(home / "out").get("weights") in (None, "new")
        recover_files(home / "out", writers.GROUP)
        assert contents(home / "out") == NEW
        calls.append(call)
    assert calls == [1, 1, 2, 2, 3, 3, 4, 4]


def test_what_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    old_directory(tmp_path)
    with writers.replacing_directory(tmp_path / "out", lambda held: True) as staged:
        writers.fill(staged, "slower")
        writers.write_directory(tmp_path)
        recover_directory(tmp_path / "out")
        assert contents(tmp_path / "out") == NEW
    assert contents(tmp_path / "out") == dict.fromkeys(NEW, "slower")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_directory_of_the_hub_by_its_name_alone_is_no_concern(tmp_path: Path) -> None:
    recover_directory(Path("nobody/such-a-model"))
    recover_directory(tmp_path / "absent" / "model")
    assert list(tmp_path.iterdir()) == []
