"""SparseGPT: removal with compensation by the inverse Hessian (Frantar & Alistarh 2023, arXiv:2301.00774)."""

import torch
from torch import Tensor

from hf_sparse.oneshot.layerwise import InputStatistics, share_out
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.n_of_m import keep_largest_of_rows


class SparseGpt(InputStatistics):
    """Removes the weights that change the layer's output least, and adjusts others to compensate.

    Frantar & Alistarh 2023 (arXiv:2301.00774, algorithm 1): columns are pruned from left to right in bands;
    within a band the weights with the smallest w^2 / [H^-1]_jj are removed, and later columns compensate the
    error. H = 2 X X^T / tokens, with `DAMPING` times its mean diagonal added. Weights of inputs that are
    always zero are removed. Weights that were removed before compensate nothing; the columns after them do.
    """

    prunes_blocks = False
    BAND, DAMPING = 128, 0.01

    def __init__(self, weight: Tensor, kept: Tensor | None = None) -> None:
        super().__init__(weight, kept)
        self.hessian = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)

    def _add(self, inputs: Tensor) -> None:
        self.hessian.addmm_(inputs.t(), inputs, alpha=2.0)

    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return the mask (out, in) of those kept."""
        values, keep = self.weight.float(), self.kept.clone()
        dead = self.hessian.diagonal() == 0
        inverse = self._inverse_factor(dead)
        values[:, dead] = 0
        columns = values.shape[1]
        # A group lies within one band.
        width = max(self.BAND // block.group, 1) * block.group
        bands = [slice(first, min(first + width, columns)) for first in range(0, columns, width)]
        sizes = torch.tensor([keep[:, band].numel() for band in bands])
        before = torch.tensor([int((~keep[:, band]).sum()) for band in bands])
        removed = share_out(block.removed(values.numel(), sparsity), sizes, before)
        for band, count in zip(bands, removed.tolist(), strict=True):
            errors = self._prune_band(values, keep, inverse, band, count, block)
            values[:, band.stop :] -= errors @ inverse[band, band.stop :]
        self.weight.copy_(values.masked_fill_(~keep, 0))
        return keep

    def _inverse_factor(self, dead: Tensor) -> Tensor:
        """Return the upper Cholesky factor of the inverse Hessian."""
        hessian = self.hessian / max(self.count, 1)
        diagonal = hessian.diagonal()
        mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
        diagonal[dead] = mean
        diagonal.add_(self.DAMPING * mean)
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
            return torch.linalg.cholesky(inverse, upper=True)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # documented, not exported
            raise ValueError(
                "the inputs of a layer are too similar to rank its weights, or are not finite; give "
                "more texts, or choose method wanda"
            ) from error

    def _prune_band(
        self, values: Tensor, keep: Tensor, inverse: Tensor, band: slice, count: int, block: Block
    ) -> Tensor:
        """Remove `count` weights of a band of columns, and return the errors (out, band) for later ones."""
        own, kept = values[:, band], keep[:, band]
        factor = inverse[band, band]
        if block.group == 1:
            scores = (own / factor.diagonal()).square().masked_fill(~kept, -torch.inf)
            kept.copy_(keep_largest_of_rows(scores.reshape(1, -1), count).view(own.shape))
        errors = torch.zeros_like(own)
        for column in range(own.shape[1]):
            if block.group > 1 and column % block.group == 0:
                group = slice(column, column + block.group)
                scores = (own[:, group] / factor.diagonal()[group]).square()
                kept[:, group] = block.keeps(scores.masked_fill(~kept[:, group], -torch.inf))
            error = own[:, column].masked_fill(kept[:, column], 0) / factor[column, column]
            own[:, column:] -= error[:, None] * factor[column, column:]
            errors[:, column] = error
        return errors
