"""Processes that train a stage: started at a low priority, watched, with their costs written down."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from hf_sparse.atomic.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
_AUTOGROUP = Path("/proc/self/autogroup")
_WRITE_EVERY = 15.0
_PR_SET_PDEATHSIG = 1


@dataclass
class Attempt:
    """A process of a stage: its start, its cost so far, and its id while it runs."""

    started: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pid: int | None = None
    born: float | None = None

    def observe(self, process: psutil.Process) -> None:
        """Note the cost of the process; one that has ended still counts until it is waited for."""
        times = process.cpu_times()
        used = times.user + times.system + times.children_user + times.children_system
        self.cpu_seconds = round(used, 1)
        self.seconds = round(max(self.seconds, time.time() - process.create_time()), 1)


class Attempts:
    """All processes of a stage, in a file beside its directory, since a stage may be killed many times."""

    def __init__(self, path: Path) -> None:
        self.path, self.all = path, []
        if path.is_file():
            try:
                self.all = [Attempt(**each) for each in json.loads(path.read_text())]
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{path} is not readable: {error}; delete it, which forgets what the stage has cost"
                ) from error

    @property
    def cost(self) -> dict[str, float]:
        """Wall and processor time of all processes in seconds, lost work included."""
        return {
            "seconds": round(sum(each.seconds for each in self.all), 1),
            "cpu_seconds": round(sum(each.cpu_seconds for each in self.all), 1),
        }

    def end_orphans(self) -> None:
        """Kill a process that outlived the runner which started it: two must not write into one directory."""
        for attempt in self.all:
            with suppress(psutil.NoSuchProcess):
                process = None if attempt.pid is None else psutil.Process(attempt.pid)
                # Another process may have this id by now; setting the clock moves the start time a little.
                if process is not None and abs(process.create_time() - attempt.born) < 5:
                    attempt.observe(process)
                    process.kill()
                    process.wait(30)
            attempt.pid = attempt.born = None
        self.write()

    def write(self) -> None:
        write_atomically(self.path, json.dumps([asdict(each) for each in self.all], indent=1).encode())


class Process:
    """A running attempt."""

    def __init__(
        self, command: Sequence[str], log: Path, attempts: Attempts, threads: int, nice: int
    ) -> None:
        self.attempts = attempts
        with log.open("a") as output:
            self.process = launch(command, threads, nice, log.parent, stdout=output, stderr=output)
        self.watched = psutil.Process(self.process.pid)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self.attempt = Attempt(began, pid=self.process.pid, born=self.watched.create_time())
        attempts.all.append(self.attempt)
        self._write()

    def poll(self) -> int | None:
        """Note the cost so far; return the exit code, None while the process runs."""
        if self.process.returncode is None:
            # The cost is read before polling, which discards the ended process.
            self.attempt.observe(self.watched)
        code = self.process.poll()
        if code is not None:
            self.attempt.pid = self.attempt.born = None
        if code is not None or time.monotonic() - self.written > _WRITE_EVERY:
            self._write()
        return code

    def end(self) -> None:
        """Ask the process to stop; the next attempt continues from the last checkpoint."""
        self.process.terminate()
        deadline = time.monotonic() + 30
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
            time.sleep(0.1)

    def _write(self) -> None:
        self.attempts.write()
        self.written = time.monotonic()


def launch(
    command: Sequence[str], threads: int, nice: int, work: Path, **streams: Any
) -> subprocess.Popen[str]:
    """Start Python at a low priority; it ends when the process that started it ends, for any reason."""
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HF_DATASETS_CACHE": str(work / "datasets"),
    }
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        env=os.environ | settings,
        cwd=ROOT,
        text=True,
        # The kernel divides the cores among sessions before it regards nice, hence a session of its own.
        start_new_session=True,
        preexec_fn=_end_with_parent,
        **streams,
    )
    lower_priority(process.pid, nice)
    return process


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def lower_priority(pid: int, nice: int) -> None:
    """Let a process, alone in its session, have what others leave of the processor.

    Between sessions Linux goes by the nice value of the group, where it has such groups.
    """
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    if _AUTOGROUP.exists():
        group = Path(f"/proc/{pid}/autogroup")
        try:
            group.write_text(str(nice))
        except BlockingIOError:
            # The kernel takes one change every tenth of a second from users other than root.
            time.sleep(0.2)
            group.write_text(str(nice))
