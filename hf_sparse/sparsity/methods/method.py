"""What a pruning method answers: which weights matter."""

from dataclasses import dataclass

from hf_sparse.sparsity.score import Score


@dataclass(frozen=True)
class Method:
    """A rule that scores weights; the lowest scores are removed first.

    Without a score the method has nothing to schedule: the zeros a model comes with are its mask to the end.
    Some methods make weights small before they remove them: `penalized` says that a group-Lasso penalty acts
    until the final sparsity is reached.
    """

    score: Score | None
    penalized: bool = False
