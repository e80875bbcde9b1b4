"""The penalty of soft movement pruning, which draws learned scores below a threshold."""

import torch
from torch import Tensor

from hf_sparse.sparsity.movement import MovementScores
from hf_sparse.sparsity.penalty import Penalty


class ScorePenalty(Penalty):
    """strength * mean of sigmoid(S) over all blocks (Sanh et al. 2020, arXiv:2005.07683, section 4).

    A block counts as gone once sigmoid(S) is below `threshold`.
    """

    def __init__(self, scores: MovementScores, strength: float, threshold: float) -> None:
        super().__init__(strength)
        self.scores, self.threshold = scores, threshold

    def refresh(self) -> None:
        """Do nothing: the penalty holds nothing constant."""

    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty to those of the scores that have one; return the penalty."""
        scores = self.scores.parameters()
        factor, total = self.strength.value / sum(score.numel() for score in scores), 0.0
        for score in scores:
            if score.grad is not None:
                share = torch.sigmoid(score.detach())
                total += float(share.sum())
                score.grad.addcmul_(share, 1 - share, value=factor * scale)
        return factor * total

    def sizes(self) -> Tensor:
        """Return sigmoid(S) of all blocks, flat, as multiples of the threshold."""
        flat = torch.cat([score.detach().flatten() for score in self.scores.parameters()])
        return torch.sigmoid(flat) / self.threshold

    def below(self, risen: float) -> dict[str, int]:
        """Count by weight the blocks below a threshold that has risen to this share of what it will be."""
        limit = risen * self.threshold
        return {
            name: int((torch.sigmoid(score) < limit).sum()) for name, score in self.scores.ranked().items()
        }
