"""Measured results in a file that says where they come from."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_sparse.atomic.files import write_atomically
from hf_sparse.environment import hardware, versions


def write_results(path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Write results with date, hardware, versions as JSON, whole or not at all; return what was written."""
    origin = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
    }
    written = dict(results) | origin
    write_atomically(path, (json.dumps(written, indent=2, allow_nan=False) + "\n").encode())
    return written
