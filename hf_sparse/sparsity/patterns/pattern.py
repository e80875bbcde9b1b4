"""The protocol of patterns: which weights of a matrix are kept or removed together."""

from typing import Protocol, runtime_checkable

from hf_sparse.sparsity.patterns.block import Block


@runtime_checkable
class Pattern(Protocol):
    """A rule that lays blocks over any (out, in) matrix; its text form reads back to an equal pattern."""

    def fit(self, name: str, shape: tuple[int, int]) -> Block:
        """Return the blocks of a matrix of this shape; raise `ValueError` if they do not tile it."""
        ...

    @property
    def share(self) -> float | None:
        """The one final sparsity that the pattern can have; None if it can have any."""
        ...
