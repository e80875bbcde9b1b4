"""Moments at which a process of a training run kills itself, as in a power cut."""

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_sparse.atomic.files import write_atomically

STEP, UPDATE, SAVE = "step", "mask update", "checkpoint"
# Modules whose built-in functions and objects work on files.
_OF_FILES = {"posix", "io", "_io", "torch._C", "_safetensors_rust", "safetensors_rust"}
# What a process writes before it dies, and the process ids of a run.
DEATH, PROCESSES = "death.json", "processes"


@dataclass(frozen=True)
class Moment:
    """A place in a run: in a step, in its mask update or while its checkpoint is written.

    `share` says how far into it, in calls of functions (of those on files while a checkpoint is written), in
    [0, 1).
    """

    step: int
    where: str
    share: float

    @property
    def key(self) -> str:
        """A name of the place, without the share."""
        return f"{self.where} {self.step}"


@dataclass(frozen=True)
class Kill:
    """A moment at which the process of a rank kills itself, and with `everybody` all others before."""

    moment: Moment
    rank: int = 0
    everybody: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Kill":
        """Return the kill that `as_dict` described."""
        return cls(Moment(**values["moment"]), values["rank"], values["everybody"])


def check_kills(count: int, steps: int) -> None:
    """Raise `ValueError` unless a run of so many steps can be killed `count` times, each in another step."""
    if not 1 <= count <= steps:
        raise ValueError(f"a run of {steps} steps is killed between 1 and {steps} times, got {count}")


def draw_kills(
    count: int, seed: int, steps: int, places: Mapping[str, Collection[int]], processes: int
) -> list[Kill]:
    """Draw kills at different steps of a run, in order; kinds of places take turns in random order.

    `places` gives the steps that have a place of each kind, STEP all of them. With several processes, all
    die in about every fourth kill, else one of them.
    """
    check_kills(count, steps)
    draw = random.Random(seed)
    free = {where: set(found) for where, found in places.items()}
    moments: list[Moment] = []
    while len(moments) < count:
        for where in draw.sample(list(places), len(places)):
            if len(moments) < count and (steps_left := sorted(free[where])):
                moments.append(Moment(draw.choice(steps_left), where, draw.random()))
                free = {other: left - {moments[-1].step} for other, left in free.items()}
    kills = []
    for moment in sorted(moments, key=lambda moment: moment.step):
        everybody = processes > 1 and draw.random() < 0.25
        kills.append(Kill(moment, draw.randrange(processes), everybody))
    return kills


class Timeline(TrainerCallback):
    """Follows a run through its places; counts the calls in some of them, and dies in one.

    Args:
        counted: Keys of the moments whose calls are counted.
        kill: Where this process dies, if it does.
        calls: How many calls were counted there before, by key.
        folder: Where the run writes what it leaves for its parent.
        ended: Called after every step, once its training loss is logged.
    """

    def __init__(
        self,
        counted: Collection[str],
        kill: Kill | None,
        calls: Mapping[str, int],
        folder: Path,
        ended: Callable[[], None],
    ) -> None:
        self.counted, self.kill, self.folder, self.ended = counted, kill, folder, ended
        self.calls: dict[str, int] = {}
        self._fatal = 0 if kill is None else 1 + int(kill.moment.share * calls.get(kill.moment.key, 1))
        self._key, self._seen = "", 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._enter(STEP, state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The parts of a run follow after the callbacks.
        self._enter(UPDATE, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._leave()
        if "loss" in (logs or {}):
            self.ended()
            if control.should_save:
                self._enter(SAVE, state.global_step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._leave()

    def _enter(self, where: str, step: int) -> None:
        self._leave()
        key = Moment(step, where, 0.0).key
        if key in self.counted or (self.kill is not None and key == self.kill.moment.key):
            self._key, self._seen = key, 0
            sys.setprofile(self._notice_files if where == SAVE else self._notice)

    def _leave(self) -> None:
        if not self._key:
            return
        sys.setprofile(None)
        self.calls[self._key] = self._seen
        if self.kill is not None and self._key == self.kill.moment.key:
            self._die("its end")
        self._key = ""

    def _notice(self, frame: FrameType, event: str, _: Any) -> None:
        """Count a call; a profiler sees those of Python's functions and of built-in ones."""
        if event in ("call", "c_call"):
            self._seen += 1
            if self._seen == self._fatal:
                sys.setprofile(None)
                self._die(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")

    def _notice_files(self, frame: FrameType, event: str, function: Any) -> None:
        """Count a call that may read, write or move files; most others while saving look up versions."""
        if event == "c_call" and _owner(function) in _OF_FILES:
            self._notice(frame, event, function)

    def _die(self, inside: str) -> None:
        if self.kill is None:
            return
        write_atomically(self.folder / DEATH, json.dumps({"inside": inside}).encode())
        if self.kill.everybody:
            for path in (self.folder / PROCESSES).iterdir():
                if path.name.isdigit() and int(path.name) != os.getpid():
                    os.kill(int(path.name), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def _owner(function: Any) -> str:
    """Return the module of a built-in function, or that of the object whose method it is."""
    return getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
