"""Models to push, and programs that push them."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.cli.commands import quantized

REPO = "somebody/sparse"
# In place of the real one, until there is one.
_CARD = """
import sys, types
card = types.ModuleType('hf_sparse.hub.card')
def write_card(directory, staged, repo, **options):
    (staged / 'README.md').write_text('---\\nlibrary_name: transformers\\n---\\n')
    (staged / 'pictures').mkdir()
    (staged / 'pictures' / 'sparsity.png').write_bytes(b'\\x89PNG\\0')
card.write_card = write_card
sys.modules['hf_sparse.hub.card'] = card
"""
PREPARED = "" if find_spec("hf_sparse.hub.card") else _CARD


def saved(directory: Path, **settings: object) -> Path:
    """Write a quantized classifier as `hf-sparse quantize` does."""
    quantized(directory, **settings)
    return directory


def pushing(directory: Path, repo: str = REPO, **options: Any) -> str:
    """Return a program that pushes and prints what `push` returns."""
    given = f"{str(directory)!r}, {repo!r}, **{options!r}"
    return f"{PREPARED}\nimport json\nfrom hf_sparse.hub import push\nprint(json.dumps(vars(push({given}))))"


def pushed(output: str) -> dict[str, Any]:
    """Return what such a program printed; progress goes elsewhere."""
    return json.loads(output.splitlines()[-1])
