"""Locks on directories that one run at a time may write to."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_sparse.atomic.directory_lock import LOCK, is_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from hf_sparse.atomic.directory_lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_is_locked_once_at_a_time_and_left_as_it_was(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
        refusal = pytest.raises(ValueError, match="in use by another run.*choose another output_dir")
        with refusal as caught, locked(tmp_path):
            pass
        assert str(tmp_path) in str(caught.value)
        # The refused one took nothing away.
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_its_block_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    assert not is_locked(tmp_path)


def test_a_lock_holds_against_other_processes_and_ends_with_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_locked(tmp_path)


def test_workers_that_outlive_a_run_do_not_hold_its_lock(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"1")
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    held = is_locked(tmp_path)
    os.write(done[1], b"1")
    os.waitpid(child, 0)
    assert not held


def test_where_no_directory_can_be_locked_a_file_in_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def files_only(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", files_only)
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_where_nothing_can_be_locked_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), locked(tmp_path), locked(tmp_path):
        pass
    assert "cannot be locked here; make sure that no other run writes to it" in caplog.text
