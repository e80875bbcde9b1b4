"""Blocks of neighboring weights, kept or removed whole: single weights, rectangles, rows and columns."""

import re
from dataclasses import dataclass
from math import floor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.numpy_ops import nonzero

Array = TypeVar("Array", np.ndarray, Tensor)

# The share of the zeros that must lie in blocks of zeros, the share of the other blocks that may be zero. The
# second keeps a weight with hardly an entry left from counting as blocks: neighbors are zero by chance.
_EXPLAINED, _STRAY = 0.99, 0.1


@dataclass(frozen=True)
class Block:
    """Blocks of rows x columns of the (out, in) matrix; 1x1 is unstructured.

    `pool` takes and returns numpy arrays or tensors alike.
    """

    rows: int = 1
    columns: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"a block has at least 1 row and 1 column, got {self.rows}x{self.columns}")

    def __str__(self) -> str:
        return "unstructured" if self.size == 1 else f"{self.rows}x{self.columns}"

    @property
    def size(self) -> int:
        """Weights in one block."""
        return self.rows * self.columns

    @property
    def share(self) -> float | None:
        return None

    @property
    def pools(self) -> bool:
        """Whether `pool` changes scores; if not, the scores of weights are ranked directly."""
        return self.size > 1

    @property
    def group(self) -> int:
        """Neighboring inputs that compete only with each other; 1 if all blocks of a weight compete."""
        return 1

    def fit(self, name: str, shape: tuple[int, int]) -> "Block":
        """Return these blocks if they tile a weight of this (out, in) shape, else raise `ValueError`."""
        if shape[0] % self.rows or shape[1] % self.columns:
            raise ValueError(
                f"pattern {self} does not tile {name} of shape {shape[0]} x {shape[1]}; "
                "exclude that module or choose a block that divides both sides"
            )
        return self

    def sums(self, values: Array) -> Array:
        """Sum values (out, in) over each block to (out / rows, in / columns)."""
        return _sum_neighbors(_sum_neighbors(values, self.rows).T, self.columns).T

    def pool(self, scores: Array) -> Array:
        """Sum the scores of weights, (out, in), to those of blocks, (out / rows, in / columns)."""
        return self.sums(scores)

    def protect(self, scores: Tensor) -> Tensor:
        """Return scores of blocks, (out / rows, in / columns), infinite where the pattern keeps the block."""
        return scores

    def keeps(self, scores: Tensor) -> Tensor:
        """Return as booleans (out, in) which weights the pattern keeps at any sparsity, by their scores."""
        return torch.zeros_like(scores, dtype=torch.bool)

    def check_kept(self, name: str, keep: Tensor) -> None:
        """Raise `ValueError` if a mask (out, in) keeps fewer weights than the pattern does anywhere."""

    def expand(self, keep: Tensor) -> Tensor:
        """Repeat the value of each block, (out / rows, in / columns), for its weights, (out, in)."""
        if self.size == 1:
            return keep
        rows, columns = keep.shape
        blocks = keep[:, None, :, None].expand(rows, self.rows, columns, self.columns)
        return blocks.reshape(rows * self.rows, columns * self.columns)

    def filled(self, weight: Tensor) -> Tensor:
        """Return as booleans, (out / rows, in / columns), which blocks of a weight are not all zeros."""
        return self.pool(nonzero(weight).to(torch.int32)) > 0

    def removed(self, blocks: int, sparsity: float) -> int:
        """Return how many of `blocks` blocks are removed at a sparsity."""
        return floor(sparsity * blocks)

    def explains(self, filled: np.ndarray, zeros: int) -> bool:
        """Return whether the pattern explains the zeros of a weight; `filled` is True where it has none.

        It does where at least 99 % of the zeros lie in blocks of nothing but zeros, and at most 10 % of the
        other blocks is zero.
        """
        # The sum of booleans is their disjunction: which blocks hold anything.
        kept = np.count_nonzero(self.sums(filled)) * self.size
        stray = zeros - (filled.size - kept)
        return bool(stray <= (1 - _EXPLAINED) * zeros and stray <= _STRAY * kept)


def _sum_neighbors(scores: Array, count: int) -> Array:
    """Sum `count` rows at a time."""
    if 1 < count == scores.shape[0]:
        return scores.sum(0)[None]
    # Slice additions: a reduction over an axis of length 4 is several times slower, in numpy as in torch.
    return sum((scores[row::count] for row in range(1, count)), start=scores[::count])


UNSTRUCTURED = Block(1, 1)


@dataclass(frozen=True)
class Tiled:
    """The blocks of one weight, (out, in)."""

    shape: tuple[int, int]
    block: Block

    @property
    def blocks(self) -> int:
        return self.shape[0] * self.shape[1] // self.block.size

    def removed(self, sparsity: float) -> int:
        """Return how many blocks are removed at a sparsity."""
        return self.block.removed(self.blocks, sparsity)


def read_block(text: str) -> Block | None:
    """Read `unstructured` or `RxC`, rows by columns of the (out, in) matrix: `1x4` runs along the inputs."""
    if text == "unstructured":
        return UNSTRUCTURED
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    return Block(int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Row:
    """Rows of the (out, in) matrix, outputs; with several vertical strips, the part of a row in each."""

    strips: int = 1
    share: None = None

    def __str__(self) -> str:
        return _text("row", self.strips)

    def fit(self, name: str, shape: tuple[int, int]) -> Block:
        return Block(1, _segment(self, name, shape, shape[1], "inputs"))


@dataclass(frozen=True)
class Column:
    """Columns of the (out, in) matrix, inputs; with several horizontal strips, the part in each."""

    strips: int = 1
    share: None = None

    def __str__(self) -> str:
        return _text("column", self.strips)

    def fit(self, name: str, shape: tuple[int, int]) -> Block:
        return Block(_segment(self, name, shape, shape[0], "outputs"), 1)


def read_whole(text: str) -> Row | Column | None:
    """Read `row`, `column`, or segments of them in a number of strips, `row/8` or `column/8`."""
    match = re.fullmatch(r"(row|column)(?:/([1-9]\d*))?", text)
    if match is None:
        return None
    return {"row": Row, "column": Column}[match[1]](int(match[2] or 1))


def _text(name: str, strips: int) -> str:
    return name if strips == 1 else f"{name}/{strips}"


def _segment(pattern: Row | Column, name: str, shape: tuple[int, int], length: int, side: str) -> int:
    if length % pattern.strips:
        raise ValueError(
            f"pattern {pattern} does not tile {name} of shape {shape[0]} x {shape[1]}: its {length} {side} "
            f"make no {pattern.strips} equal strips; exclude that module or choose another number"
        )
    return length // pattern.strips
