"""Whole rows or whole columns: what can be taken out of a matrix to leave a smaller one."""

from dataclasses import dataclass

from hf_sparse.sparsity.patterns.block import Block


@dataclass(frozen=True)
class Row:
    """Whole rows of the (out, in) matrix: outputs."""

    share: None = None

    def __str__(self) -> str:
        return "row"

    def fit(self, name: str, shape: tuple[int, int]) -> Block:
        return Block(1, shape[1])


@dataclass(frozen=True)
class Column:
    """Whole columns of the (out, in) matrix: inputs."""

    share: None = None

    def __str__(self) -> str:
        return "column"

    def fit(self, name: str, shape: tuple[int, int]) -> Block:
        return Block(shape[0], 1)


def read_whole(text: str) -> Row | Column | None:
    """Read `row` or `column`."""
    return {"row": Row(), "column": Column()}.get(text)
