"""Directories that one run at a time may write to."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_sparse.atomic.claims import LOCK, claimed, is_claimed

HOLD = """
import sys, time
from pathlib import Path
from hf_sparse.atomic.claims import claimed

with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_is_claimed_once_at_a_time_and_left_as_it_was(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert is_claimed(tmp_path)
        refusal = pytest.raises(ValueError, match="in use by another run.*choose another output_dir")
        with refusal as caught, claimed(tmp_path):
            pass
        assert str(tmp_path) in str(caught.value)
        # The refused one took nothing away.
        assert is_claimed(tmp_path)
    assert not is_claimed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_ends_with_its_block_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path):
        raise KeyboardInterrupt
    assert not is_claimed(tmp_path)


def test_a_claim_holds_against_other_processes_and_ends_with_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert is_claimed(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_claimed(tmp_path)


def test_workers_that_outlive_a_run_do_not_hold_its_claim(tmp_path: Path) -> None:
    ready, done = os.pipe(), os.pipe()
    with claimed(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"1")
            os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    held = is_claimed(tmp_path)
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
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert is_claimed(tmp_path)
    assert not is_claimed(tmp_path)


def test_where_nothing_can_be_locked_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), claimed(tmp_path), claimed(tmp_path):
        pass
    assert "cannot be locked here; make sure that no other run writes to it" in caplog.text
