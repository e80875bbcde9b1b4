"""The patterns that a recipe can name: how each is written, and the function that reads it."""

from collections.abc import Callable

from hf_sparse.sparsity.patterns.block import read_block, read_whole
from hf_sparse.sparsity.patterns.n_of_m import read_n_of_m
from hf_sparse.sparsity.patterns.pattern import Pattern

PATTERNS: dict[str, Callable[[str], Pattern | None]] = {
    "unstructured, or blocks as rows x columns such as 1x4 or 4x4": read_block,
    "N:M such as 2:4": read_n_of_m,
    "row, column, or segments of them in strips such as row/8": read_whole,
}
