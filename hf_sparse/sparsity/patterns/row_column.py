"""Rows and columns, whole or in segments: they can be removed from a matrix, or from a strip of it."""

import re
from dataclasses import dataclass

from hf_sparse.sparsity.patterns.block import Block


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
