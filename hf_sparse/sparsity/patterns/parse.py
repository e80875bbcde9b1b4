"""Patterns as people write them."""

from hf_sparse.sparsity.patterns import PATTERNS
from hf_sparse.sparsity.patterns.pattern import Pattern


def parse_pattern(text: str) -> Pattern:
    """Return the pattern of a text such as `1x4`; raise `ValueError` naming the choices."""
    read = (reader(text) for reader in PATTERNS.values())
    pattern = next((pattern for pattern in read if pattern is not None), None)
    if pattern is None:
        raise ValueError(f"{text!r} is not a pattern; write {', '.join(PATTERNS)}")
    return pattern
