"""What the benchmarks share: the machine they ran on, the file their figures go to."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

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
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "hardware": hardware(),
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy")},
        "settings": dict(settings),
        "columns": list(columns),
        "rows": [dict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def hardware() -> str:
    """Name the processor with the threads used of it."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    widest = next((flag for flag in ("avx512_vnni", "avx512f", "avx2") if flag in flags), "no AVX2")
    processor = names[0] if names else platform.machine()
    return f"{processor} with {widest}, {torch.get_num_threads()} threads, no GPU"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
