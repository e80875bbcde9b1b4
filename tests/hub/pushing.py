"""Models to push, and programs that push them."""

import json
from pathlib import Path
from typing import Any

from tests.cli.commands import quantized

REPO = "somebody/sparse"


def saved(directory: Path, **settings: object) -> Path:
    """Write a quantized classifier as `hf-sparse quantize` does."""
    quantized(directory, **settings)
    return directory


def pushing(directory: Path, repo: str = REPO, **options: Any) -> str:
    """Return a program that pushes and prints what `push` returns."""
    given = f"{str(directory)!r}, {repo!r}, **{options!r}"
    return f"import json\nfrom hf_sparse.hub import push\nprint(json.dumps(vars(push({given}))))"


def pushed(output: str) -> dict[str, Any]:
    """Return what such a program printed; progress goes elsewhere."""
    return json.loads(output.splitlines()[-1])
