"""What a pruning method answers: which weights matter."""

from dataclasses import dataclass

from hf_sparse.sparsity.score import Score


@dataclass(frozen=True)
class Method:
    """A rule that scores weights; the lowest scores are removed first.

    `score` computes scores from weights. With `learned` they are learned beside the weights instead, which
    also lets removed weights return. `penalized` says that until the final sparsity is reached a penalty
    makes small what is to be removed: groups of weights, or learned scores. A method that neither scores nor
    learns has nothing to schedule: the zeros a model comes with are its mask to the end.
    """

    score: Score | None = None
    learned: bool = False
    penalized: bool = False

    @property
    def scheduled(self) -> bool:
        """Whether the method removes anything."""
        return self.learned or self.score is not None
