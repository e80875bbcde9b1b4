"""What the importance of a weight is computed by."""

from typing import Protocol

from hf_sparse.sparsity.patterns.block import Array


class Score(Protocol):
    """Maps weights to scores entry by entry, numpy arrays and tensors alike, into `out` where given."""

    def __call__(self, weight: Array, out: Array | None = None) -> Array: ...
