"""Processes of a stage: what they cost, how they end, what is left of them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from attempts import Attempt, Attempts, Process, lower_priority

from tests.benchmarks.accuracy.fakes import PRIORITY

BUSY = ["-c", "while True: pass"]
ACCURACY = Path(__file__).parents[3] / "benchmarks" / "accuracy"


@pytest.fixture
def idle() -> subprocess.Popen:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def burn(process: Process, seconds: float) -> None:
    """Let a process run until it has cost so much processor time."""
    deadline = time.monotonic() + 60
    while process.attempt.cpu_seconds < seconds and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)


def start(folder: Path, command: list[str] = BUSY) -> Process:
    attempts = Attempts(folder / "one.attempts.json")
    return Process(command, folder / "one.log", attempts, threads=1, nice=PRIORITY + 1)


def test_the_cost_of_a_stage_is_that_of_all_its_processes(tmp_path: Path) -> None:
    killed = start(tmp_path)
    assert psutil.Process(killed.process.pid).nice() == PRIORITY + 1
    burn(killed, 0.3)
    killed.process.send_signal(signal.SIGKILL)
    while killed.poll() is None:
        time.sleep(0.01)
    assert killed.poll() == -signal.SIGKILL
    ended = start(tmp_path)
    burn(ended, 0.2)
    ended.end()
    found = Attempts(tmp_path / "one.attempts.json")
    assert [attempt.pid for attempt in found.all] == [None, None]
    assert found.all[0].cpu_seconds >= 0.3 and found.all[1].cpu_seconds >= 0.2
    assert found.cost["cpu_seconds"] == pytest.approx(sum(each.cpu_seconds for each in found.all))
    assert found.cost["seconds"] >= found.cost["cpu_seconds"] - 0.1


def test_a_running_process_is_on_record(tmp_path: Path) -> None:
    process = start(tmp_path)
    (written,) = json.loads((tmp_path / "one.attempts.json").read_text())
    process.end()
    assert written["pid"] == process.process.pid and written["born"] is not None


def test_an_orphan_is_ended_and_counted(tmp_path: Path, idle: subprocess.Popen) -> None:
    attempts = Attempts(tmp_path / "one.attempts.json")
    born = psutil.Process(idle.pid).create_time()
    attempts.all.append(Attempt("2026-12-01", 5.0, 2.0, idle.pid, born))
    attempts.end_orphans()
    assert not psutil.pid_exists(idle.pid)
    (found,) = Attempts(tmp_path / "one.attempts.json").all
    assert found.pid is None and found.seconds == 5.0


def test_another_process_of_that_number_is_left_alone(tmp_path: Path, idle: subprocess.Popen) -> None:
    attempts = Attempts(tmp_path / "one.attempts.json")
    attempts.all.append(Attempt("2026-12-01", 5.0, 2.0, idle.pid, born=1.0))
    attempts.end_orphans()
    assert idle.poll() is None
    assert Attempts(tmp_path / "one.attempts.json").all == [Attempt("2026-12-01", 5.0, 2.0)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next runner ends them")
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    program = (
        f"import sys, time; sys.path.insert(0, {str(ACCURACY)!r}); from attempts import *; "
        f"p = launch(['-c', 'import time; time.sleep(60)'], 1, 0, Path({str(tmp_path)!r})); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    # In a container nobody may be there to wait for it.
    gone = [psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD]
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() not in gone and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.is_running() or child.status() in gone


def test_a_file_that_is_damaged_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "one.attempts.json").write_text('[{"started": "20')
    with pytest.raises(ValueError, match="one.attempts.json is not readable: .*; delete it"):
        Attempts(tmp_path / "one.attempts.json")


def test_what_was_being_written_at_a_kill_is_not_read(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "one.attempts.json")
    attempts.all.append(Attempt("2026-12-01", 5.0, 2.0))
    attempts.write()
    (tmp_path / ".one.attempts.json.123").write_text('[{"started": "20')
    assert Attempts(tmp_path / "one.attempts.json").cost == {"seconds": 5.0, "cpu_seconds": 2.0}


def test_a_priority_that_was_changed_just_before_is_changed_again(
    tmp_path: Path, idle: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel makes users other than root wait between two changes."""
    written = []

    def write(path: Path, text: str) -> None:
        written.append((path.name, text))
        if len(written) == 1:
            raise BlockingIOError

    monkeypatch.setattr("attempts._AUTOGROUP", tmp_path)
    monkeypatch.setattr(Path, "write_text", write)
    lower_priority(idle.pid, 19)
    assert written == [("autogroup", "19")] * 2
