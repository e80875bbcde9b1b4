"""The directory of compiled libraries: only whole ones of this user are loaded, nothing is left behind."""

import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_sparse.native import build as building
from hf_sparse.native import cache
from hf_sparse.native.build import load_first, load_library

SOURCE = "native/answer.cpp"
CODE = """
from pathlib import Path
from hf_sparse.native import build as building
building._PACKAGE = Path({package!r})
library = building.load_library({source!r})
assert library is not None
print(library.answer())
"""

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, building.COMPILERS)), reason="there is no C++ compiler"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace the sources of the package by a tiny one, and the user's cache by a missing directory."""
    (tmp_path / "package" / "native").mkdir(parents=True)
    (tmp_path / "package" / SOURCE).write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setattr(building, "_PACKAGE", tmp_path / "package")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(building.SWITCH, raising=False)
    load_first.cache_clear()
    yield tmp_path / "cache" / "hf_sparse"
    load_first.cache_clear()


def answer() -> int | None:
    load_first.cache_clear()
    library = load_library(SOURCE)
    return library and library.answer()


def files(home: Path) -> tuple[Path, Path]:
    """Return the only library of the cache and its hash."""
    library, known = sorted(home.iterdir())
    assert known.name == f"{library.name}.sha256"
    return library, known


def foreign(path: Path, result: int) -> None:
    """Compile another library to a path."""
    source = path.parent.parent / "foreign.cpp"
    source.write_text(f'extern "C" int answer() {{ return {result}; }}')
    subprocess.run([*building._compiler(), "-shared", "-fPIC", "-o", str(path), str(source)], check=True)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_whatever_the_umask_all_of_it_is_the_users_alone(umask: int, home: Path) -> None:
    before = os.umask(umask)
    try:
        assert answer() == 42
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (home, *files(home))]
    assert modes == [0o700, 0o700, 0o600]
    assert answer() == 42


def test_a_directory_of_the_user_that_others_may_read_is_closed_to_them(home: Path) -> None:
    home.mkdir(parents=True, mode=0o755)
    assert answer() == 42 and stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_nothing_is_loaded_from_a_directory_that_others_may_write_to(
    mode: int, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer() == 42
    home.chmod(mode)
    assert answer() is None
    assert f"{home} is another user's, or others may write to it; delete it, or say chmod 700" in caplog.text


def test_nor_from_one_of_another_user(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer() == 42
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    assert answer() is None and f"{home} is another user's" in caplog.text


def test_nor_through_a_link(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = home.parent / "elsewhere"
    elsewhere.mkdir(parents=True, mode=0o700)
    home.symlink_to(elsewhere)
    assert answer() is None and "is a link, which is not followed" in caplog.text
    assert not list(elsewhere.iterdir())


def replaced_by_a_link(library: Path, known: Path) -> None:
    other = library.parent.parent / "other.so"
    foreign(other, 13)
    library.unlink()
    library.symlink_to(other)
    with other.open("rb") as file:
        known.write_text(cache.hashlib.file_digest(file, "sha256").hexdigest())


def replaced_by_a_pipe(library: Path, known: Path) -> None:
    library.unlink()
    os.mkfifo(library)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "a link": replaced_by_a_link,
    "a pipe": replaced_by_a_pipe,
    "another library": lambda library, known: foreign(library, 13),
    "written by a group": lambda library, known: library.chmod(0o770),
    "written by anybody": lambda library, known: library.chmod(0o777),
    "a hash written by anybody": lambda library, known: known.chmod(0o666),
    "no hash": lambda library, known: known.unlink(),
    "half a hash": lambda library, known: known.write_bytes(known.read_bytes()[:32]),
    "no library": lambda library, known: library.unlink(),
    "an empty library": lambda library, known: library.write_bytes(b""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_cannot_be_trusted_is_made_anew(kind: str, home: Path) -> None:
    assert answer() == 42
    library, known = files(home)
    before = library.lstat().st_ino
    DAMAGE[kind](library, known)
    assert answer() == 42
    library, known = files(home)
    assert not library.is_symlink() and library.stat().st_ino != before
    assert [stat.S_IMODE(path.stat().st_mode) for path in (library, known)] == [0o700, 0o600]


def run(home: Path, **environment: str) -> subprocess.Popen[str]:
    code = CODE.format(package=str(building._PACKAGE), source=SOURCE)
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_library_that_was_cut_short_ends_no_process(share: float, home: Path) -> None:
    assert answer() == 42
    library, _ = files(home)
    # In place: its pages would end a process that reads them, also this one, which has mapped it.
    content = library.read_bytes()
    library.unlink()
    library.write_bytes(content[: int(share * len(content))])
    library.chmod(0o700)
    process = run(home)
    assert process.communicate()[0] == "42\n" and process.returncode == 0


def test_of_processes_that_come_at_once_one_compiles(home: Path, tmp_path: Path) -> None:
    counting = tmp_path / "counting"
    counting.write_text(f'#!/bin/sh\necho >> {tmp_path}/count\nexec {building._compiler()[0]} "$@"\n')
    counting.chmod(0o755)
    running = [run(home, CXX=str(counting)) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["42\n"] * 3
    assert (tmp_path / "count").read_text() == "\n"
    files(home)


def test_what_a_killed_process_was_compiling_is_cleared_away(home: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o755)
    process = run(home, CXX=str(slow))
    while not (home.is_dir() and list(home.iterdir())):
        time.sleep(0.01)
    (left,) = home.iterdir()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # Another process may still be at it.
    assert answer() == 42 and left.is_dir()
    load_first.cache_clear()
    old = time.time() - 2 * cache._LEFT_SECONDS
    os.utime(left, (old, old))
    for path in home.glob("*.so*"):
        path.unlink()
    assert answer() == 42 and not left.exists()
    files(home)


def test_two_libraries_by_the_same_descriptor_are_two(home: Path) -> None:
    """The loader takes a path that it has opened before for the same library."""
    one = load_library(SOURCE)
    (building._PACKAGE / SOURCE).write_text('extern "C" int answer() { return 7; }')
    load_first.cache_clear()
    other = load_library(SOURCE)
    assert isinstance(one, ctypes.CDLL) and (one.answer(), other.answer()) == (42, 7)


def test_without_proc_it_is_loaded_by_its_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc") and exists(path))
    assert answer() == 42
