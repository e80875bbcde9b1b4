"""What a pruning method answers: which weights matter."""

from dataclasses import dataclass
from typing import Protocol

from hf_sparse.sparsity.patterns import Array


class Score(Protocol):
    """Maps weights to scores entry by entry, numpy arrays and tensors alike, into `out` where given."""

    def __call__(self, weight: Array, out: Array | None = None) -> Array: ...


@dataclass(frozen=True)
class Method:
    """A rule that scores weights; the lowest scores are removed first.

    Without a score the method has nothing to schedule: the zeros a model comes with are its mask to the end.
    """

    score: Score | None
