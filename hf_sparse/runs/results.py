"""Files of measured results: the scores of an evaluation, the figures of a benchmark."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from hf_sparse.atomic.files import write_atomically
from hf_sparse.environment import hardware, versions
from hf_sparse.readers import read_json, shortened
from hf_sparse.runs.history import is_number

EVALUATION = "eval_results.json"
_PREFIX = "eval_"
# Scripts for masked language modeling write the perplexity without a prefix.
_PREFIXES = (_PREFIX, "perplexity")
_MEASURED, _WAY_OUT = "measurement of a model", "measure again, or delete it"
# Values of an evaluation that describe its speed, not the model.
_CLOCK = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "samples")


def read_measured(path: Path) -> dict[str, Any]:
    """Return the measurements of a model that a JSON file holds; raise `ValueError` if it is damaged."""
    found = read_json(path, _MEASURED, _WAY_OUT)
    zeros = found.get("sparsity")
    if zeros is not None and not (is_number(zeros) and 0 <= zeros <= 1):
        raise ValueError(f"{path} is not a {_MEASURED} (a sparsity of {shortened(zeros)}); {_WAY_OUT}")
    return found


def scores_in(results: Mapping[str, Any]) -> tuple[dict[str, float], int | None]:
    """Return the scores that `Trainer.save_metrics` wrote, and the number of examples, None if unknown."""
    numbers = {
        name.removeprefix(_PREFIX): value
        for name, value in results.items()
        if name.startswith(_PREFIXES) and is_number(value) and isfinite(value)
    }
    samples = numbers.get("samples")
    scores = {name: value for name, value in numbers.items() if not name.startswith(_CLOCK)}
    return scores, None if samples is None else int(samples)


def write_results(path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Write results with date, hardware and versions as JSON, whole or not at all; return the content."""
    origin = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
    }
    written = dict(results) | origin
    write_atomically(path, (json.dumps(written, indent=2, allow_nan=False) + "\n").encode())
    return written
