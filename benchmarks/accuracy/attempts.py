"""One process that trains a stage: started at a low priority, watched, its cost written down as it grows."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from hf_sparse.storage import write_atomically

_AUTOGROUP = Path("/proc/self/autogroup")


@dataclass
class Attempt:
    """A process of a stage: when it began, what it has cost so far, which it is while it runs."""

    started: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    pid: int | None = None
    born: float | None = None


class Attempts:
    """All processes that a stage has taken, in a file beside its directory: it may be killed many times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all = [Attempt(**each) for each in json.loads(path.read_text())] if path.is_file() else []

    @property
    def cost(self) -> dict[str, float]:
        """Wall and processor time of all of them, in seconds, lost work included."""
        return {
            "seconds": round(sum(each.seconds for each in self.all), 1),
            "cpu_seconds": round(sum(each.cpu_seconds for each in self.all), 1),
        }

    def end_orphans(self) -> None:
        """Kill a process that outlived the runner which started it: two must not write into one directory."""
        for attempt in self.all:
            if attempt.pid is not None and psutil.pid_exists(attempt.pid):
                process = psutil.Process(attempt.pid)
                if process.create_time() == attempt.born:
                    process.kill()
                    process.wait(30)
            attempt.pid = attempt.born = None

    def write(self) -> None:
        write_atomically(self.path, json.dumps([asdict(each) for each in self.all], indent=1).encode())


class Process:
    """A running attempt."""

    def __init__(
        self, command: Sequence[str], log: Path, attempts: Attempts, threads: int, nice: int
    ) -> None:
        attempts.end_orphans()
        self.attempts, self.start = attempts, time.monotonic()
        root = Path(__file__).resolve().parents[2]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(root),
            "PYTHONUNBUFFERED": "1",
            "HF_DATASETS_CACHE": str(log.parent / "datasets"),
        }
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                # A session of its own: the kernel shares the cores out by session before it looks at nice.
                start_new_session=True,
            )
        lower_priority(self.process.pid, nice)
        self.watched = psutil.Process(self.process.pid)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        self.attempt = Attempt(began, pid=self.process.pid, born=self.watched.create_time())
        attempts.all.append(self.attempt)
        attempts.write()

    def poll(self) -> int | None:
        """Write down what it has cost; return its exit code once it has ended, None before."""
        if self.process.returncode is None:
            # Before it is asked whether it has ended, since nothing is left of it afterwards.
            times = self.watched.cpu_times()
            used = times.user + times.system + times.children_user + times.children_system
            self.attempt.cpu_seconds = round(used, 1)
            self.attempt.seconds = round(time.monotonic() - self.start, 1)
        code = self.process.poll()
        if code is not None:
            self.attempt.pid = self.attempt.born = None
        self.attempts.write()
        return code

    def end(self) -> None:
        """Ask it to stop; it goes on from its last checkpoint another time."""
        self.poll()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.poll()


def lower_priority(pid: int, nice: int) -> None:
    """Let a process, alone in its session, have what others leave of the processor.

    Between sessions Linux goes by the nice value of the group, where it has such groups.
    """
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    if _AUTOGROUP.exists():
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))
