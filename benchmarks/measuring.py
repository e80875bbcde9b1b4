"""Write the results of a benchmark, with the machine and the command behind them."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_sparse.environment import hardware
from hf_sparse.runs import results

RESULTS = Path(__file__).parent / "results"


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
