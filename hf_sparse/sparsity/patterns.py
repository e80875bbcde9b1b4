"""The shapes in which weights are removed together."""

import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class Block:
    """Blocks of rows x columns of the (out, in) matrix that are kept or removed whole; 1x1 is unstructured.

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

    def check(self, name: str, shape: tuple[int, int]) -> None:
        """Raise `ValueError` if the blocks do not tile a weight of this (out, in) shape."""
        if shape[0] % self.rows or shape[1] % self.columns:
            raise ValueError(
                f"pattern {self} does not tile {name} of shape {shape[0]} x {shape[1]}; "
                "exclude that module or choose a block that divides both sides"
            )

    def pool(self, scores: Array) -> Array:
        """Sum scores (out, in) over each block to (out / rows, in / columns)."""
        # Slice additions: a reduction over an axis of length 4 is several times slower, in numpy as in torch.
        pooled = sum((scores[row :: self.rows] for row in range(1, self.rows)), start=scores[:: self.rows])
        return sum(
            (pooled[:, column :: self.columns] for column in range(1, self.columns)),
            start=pooled[:, :: self.columns],
        )

    def expand(self, keep: Tensor) -> Tensor:
        """Repeat the verdict on each block, (out / rows, in / columns), for all its weights, (out, in)."""
        if self.size == 1:
            return keep
        rows, columns = keep.shape
        blocks = keep[:, None, :, None].expand(rows, self.rows, columns, self.columns)
        return blocks.reshape(rows * self.rows, columns * self.columns)


UNSTRUCTURED = Block(1, 1)


def parse_pattern(text: str) -> Block:
    """Read `unstructured` or `RxC`, rows by columns of the (out, in) matrix: `1x4` runs along the inputs."""
    if text == "unstructured":
        return UNSTRUCTURED
    if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
        return Block(int(match[1]), int(match[2]))
    raise ValueError(
        f"{text!r} is not a pattern; write unstructured, or a block as rows x columns such as 1x4 or 4x4"
    )
