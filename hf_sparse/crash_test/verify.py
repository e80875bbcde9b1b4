"""Train straight through, and again with kills and resumptions; compare both runs step by step."""

import json
import logging
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from hf_sparse.atomic.files import write_atomically
from hf_sparse.crash_test.job import END, OUTPUT, Job, train
from hf_sparse.crash_test.moments import DEATH, PROCESSES, SAVE, STEP, UPDATE, Kill, draw_kills
from hf_sparse.crash_test.snapshot import Difference, first_difference
from hf_sparse.readers import read_json
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.checkpoints.manifest import MANIFEST, check_manifest

_TASK = "task.json"
# Signals that the launcher handles, for good.
_HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
# They report every death.
_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing.spawn")
_AGAIN = "start the test again"


@dataclass(frozen=True)
class Death:
    """A kill that happened: the function it fell into, and the step of the newest checkpoint, or 0."""

    kill: Kill
    inside: str
    checkpoint: int


@dataclass
class Verification:
    """What a crash test found; `faults` are checkpoints that were not whole and files left behind.

    `step` and `rank` are those of the first difference, in a run resumed from the checkpoint of step
    `resumed_from`; the step is None if it showed after the end.
    """

    job: Job
    seed: int
    deaths: list[Death] = field(default_factory=list)
    compared: int = 0
    difference: Difference | None = None
    step: int | None = None
    rank: int = 0
    resumed_from: int = 0
    faults: list[str] = field(default_factory=list)
    seconds_straight: float = 0.0
    seconds_killed: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether both runs are equal and every checkpoint was whole."""
        return self.difference is None and not self.faults


def verify_resume(
    job: Job,
    home: Path,
    kills: int = 5,
    seed: int = 0,
    every: int = 1,
    heard: Callable[[Death], None] = lambda death: None,
) -> Verification:
    """Compare a run that is killed and resumed with one that is not.

    Args:
        job: The run.
        home: An empty directory for both runs.
        kills: How often the run is killed.
        seed: Chooses the moments of the kills.
        every: Compare after every so many steps, and at the end.
        heard: Called after every kill.

    Returns:
        What was found, up to the first difference.

    Raises:
        ValueError: The run cannot be trained as asked, or there are more kills than steps.
        RuntimeError: A process failed otherwise than by a kill.
    """
    if not hasattr(signal, "SIGKILL"):
        raise ValueError("a process is killed by SIGKILL, which Windows lacks; run this on Linux or macOS")
    planned = draw_kills(kills, seed, job.max_steps, _places(job), job.processes)
    found = Verification(job, seed)
    began = time.perf_counter()
    straight = _Runs(job, home / "straight", every)
    straight.launch(counted=[kill.moment.key for kill in planned])
    straight.calls = {
        f"{rank}": read_json(straight.folder / f"calls-{rank}.json", "count", _AGAIN)
        for rank in range(job.processes)
    }
    found.seconds_straight = time.perf_counter() - began
    killed = _Runs(job, home / "killed", every, straight.calls)
    for kill in (*planned, None):
        found.resumed_from = killed.last_step()
        inside = killed.launch(kill)
        found.faults += _incomplete(killed.output, straight.output)
        found.compared += _compare(straight.folder, killed.folder, found)
        if kill is not None:
            found.deaths.append(Death(kill, inside, killed.last_step()))
            heard(found.deaths[-1])
        if not found.passed:
            break
    else:
        found.faults += _left_behind(killed.output, straight.output)
    found.seconds_killed = time.perf_counter() - began - found.seconds_straight
    return found


def _places(job: Job) -> dict[str, list[int]]:
    """Return the steps of a run that have each kind of place to die in."""
    steps = range(1, job.max_steps + 1)
    sparsity = Recipe.from_dict(job.recipe).sparsity
    schedule = (
        None if sparsity is None or sparsity.schedule is None else sparsity.schedule.resolve(job.max_steps)
    )
    saved = [step for step in steps if step % job.save_steps == 0 or step == job.max_steps]
    return {
        STEP: list(steps),
        SAVE: saved,
        UPDATE: [] if schedule is None else [step for step in steps if schedule.is_update(step)],
    }


@dataclass
class _Runs:
    """The processes of one run, started again after each kill."""

    job: Job
    folder: Path
    every: int
    calls: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.folder / OUTPUT

    def last_step(self) -> int:
        """Return the step of the newest checkpoint, 0 if there is none."""
        found = sort_checkpoints(str(self.output)) if self.output.is_dir() else []
        return int(found[-1].rpartition("-")[2]) if found else 0

    def launch(self, kill: Kill | None = None, counted: list[str] | None = None) -> str:
        """Start from the newest checkpoint, wait for the end; return the function that a kill fell into."""
        task = self.folder / _TASK
        # What processes left that were killed, or failed since another one was.
        for old in (self.folder / DEATH, *self.folder.glob("error-*.json")):
            old.unlink(missing_ok=True)
        shutil.rmtree(self.folder / PROCESSES, ignore_errors=True)
        content = {
            "job": self.job.as_dict(),
            "every": self.every,
            "resume": self.last_step() > 0,
            "kill": None if kill is None else kill.as_dict(),
            "counted": counted or [],
            "calls": self.calls,
        }
        write_atomically(task, json.dumps(content).encode())
        said = self._fork(task) if self.job.processes == 1 else self._torchrun(task)
        death = self.folder / DEATH
        if death.is_file() and kill is not None:
            return read_json(death, "death", _AGAIN)["inside"]
        self._require_done(said)
        if kill is not None:
            raise RuntimeError(f"the run ended before it came to its {kill.moment.key}, where it was to die")
        return ""

    def _fork(self, task: Path) -> str:
        process = _preloaded().Process(target=train, args=(task, True))
        process.start()
        try:
            process.join()
        finally:
            process.kill()
            process.join()
        return f"exit code {process.exitcode}"

    def _torchrun(self, task: Path) -> str:
        """Start the processes as torchrun does; it stops the others once one has died."""
        # torchrun's own entry starts Python again for every process, which takes longer than a short run.
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.job.processes,
            run_id=task.parent.name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="forkserver",
        )
        _preloaded()
        levels = {logging.getLogger(name): logging.getLogger(name).level for name in _LOGGERS}
        handlers = {
            number: signal.getsignal(number) for name in _HANDLED if (number := getattr(signal, name, None))
        }
        try:
            for logger in levels:
                logger.setLevel(logging.CRITICAL)
            elastic_launch(config, train)(task, True)
        except ChildFailedError as error:
            return f"{error}"
        except SignalException as error:
            # As one process has it.
            raise KeyboardInterrupt from error
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return ""

    def _require_done(self, said: str) -> None:
        """Raise the error of a process that failed, or `RuntimeError` if it left none."""
        for rank in range(self.job.processes):
            file = self.folder / f"error-{rank}.json"
            if file.is_file():
                error = read_json(file, "error", _AGAIN)
                where = f"resumed from step {self.last_step()}, the run failed: " if self.calls else ""
                if not where and error["kind"] in ("ValueError", "FileNotFoundError", "OSError"):
                    raise ValueError(error["message"])
                raise RuntimeError(f"{where}{error['kind']}: {error['message']}\n{error['traceback']}")
            if not (self.folder / "steps" / f"{rank}" / f"{END}.pt").is_file():
                raise RuntimeError(f"process {rank} ended before its run did ({said})")


def _preloaded() -> ForkServerContext:
    """Return a context whose processes start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__module__, "transformers.models.bert.modeling_bert"])
    return context


def _compare(straight: Path, killed: Path, found: Verification) -> int:
    """Compare and delete what a killed run left of its steps; return how many states were equal."""
    equal = 0
    for rank, name, file in _states(killed):
        if found.difference is None:
            one, other = (
                torch.load(path, weights_only=True) for path in (straight / "steps" / rank / file.name, file)
            )
            found.difference = first_difference(one, other)
            found.step, found.rank = None if name == END else int(name), int(rank)
            equal += found.difference is None
        file.unlink()
    return equal


def _states(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield rank, step and file of every state, in the order of steps."""
    found = [(path.parent.name, path.stem, path) for path in folder.glob("steps/*/*.pt")]
    return iter(
        sorted(found, key=lambda each: (each[1] == END, int(each[1]) if each[1] != END else 0, each[0]))
    )


def _incomplete(output: Path, straight: Path) -> Iterator[str]:
    """Yield what is wrong with each checkpoint under its final name."""
    expected = {path.name for path in Path(sort_checkpoints(str(straight))[-1]).iterdir()}
    for checkpoint in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        names = {path.name for path in checkpoint.iterdir()}
        if missing := sorted(({TRAINER_STATE_NAME, MANIFEST} | expected) - names):
            yield f"{checkpoint.name} lacks {', '.join(missing)}"
        try:
            check_manifest(checkpoint)
        except ValueError as error:
            yield f"{error}"


def _left_behind(output: Path, straight: Path) -> Iterator[str]:
    """Yield files and directories that only one of the two runs has at the end."""
    ours, theirs = (
        {path.relative_to(home).as_posix() for path in home.rglob("*")} for home in (output, straight)
    )
    yield from (f"{name} was left behind" for name in sorted(ours - theirs))
    yield from (f"{name} is missing" for name in sorted(theirs - ours))
