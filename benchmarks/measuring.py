"""Where the figures of a benchmark go, with what they were measured on."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_sparse.report import results

RESULTS = Path(__file__).parent / "results"


def write_results(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    columns: Sequence[str],
) -> Path:
    """Write `results/{name}.json`: figures with the settings, versions, hardware and command behind them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "name": name,
        "title": title,
        "command": shlex.join(["python", *sys.argv]),
        "settings": dict(settings),
        "columns": list(columns),
        "rows": [dict(row) for row in rows],
    }
    results.write_results(path, content)
    return path
