"""Time calls in turns; write the results of a benchmark, with the machine and the command behind them."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hf_sparse.environment import hardware
from hf_sparse.runs import results

RESULTS = Path(__file__).parent / "results"
# Busy: calls had a processor for less of the time, or more programs than this wanted one, too.
_SHARE, _COMPANY = 0.97, 0.5


@dataclass
class Timed:
    """Milliseconds of one call after the other: of the clock, and of the processors that this process had."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: Iterable[int], warm_up: int = 2
) -> dict[str, Timed]:
    """Time each call once in every round.

    An untimed call precedes every timed one, so that the caches hold its weights and threads of the call
    before have come to rest.
    """
    found = {name: Timed() for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            for _ in range(warm_up):
                call()
        for _ in rounds:
            for name, call in calls.items():
                call()
                begin, busy = time.perf_counter(), time.process_time()
                call()
                found[name].cpu.append(1e3 * (time.process_time() - busy))
                found[name].wall.append(1e3 * (time.perf_counter() - begin))
    return found


def company(timed: Mapping[str, Timed], threads: int, wanted: float | None = None) -> str:
    """Return "quiet", or how busy other programs kept the machine while calls were timed.

    `wanted` is the number of processors that this process wanted on average, if it was not `threads`.
    """
    others = max(os.getloadavg()[0] - (threads if wanted is None else wanted), 0.0)
    had = 1.0
    if threads == 1:
        had = median(c / w for one in timed.values() for c, w in zip(one.cpu, one.wall, strict=True))
    if had >= _SHARE and others < _COMPANY:
        return "quiet"
    theirs = f"other programs wanted {others:.1f} of {os.cpu_count()} processors"
    return f"busy: {theirs}, calls had theirs {had:.0%} of the time"


def instructions() -> str:
    """Return this processor's fastest instructions for 8-bit integers, or `none`.

    Files of latencies are named after them, because ratios between engines depend on them.
    """
    return next(iter(hardware()["instructions"].split()), "none")


def write_results(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    columns: Sequence[str],
    command: str | None = None,
) -> Path:
    """Write `results/{name}.json`: rows with settings, versions, hardware and command; return its path.

    `command` replaces the one that was run, if that names paths of the machine.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "name": name,
        "title": title,
        "command": command or shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "settings": dict(settings),
        "columns": list(columns),
        "rows": [dict(row) for row in rows],
    }
    results.write_results(path, content)
    return path
