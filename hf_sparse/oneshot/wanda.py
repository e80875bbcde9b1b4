"""Wanda: weights scored by their size and the norm of their input (Sun et al. 2023, arXiv:2306.11695)."""

import torch
from torch import Tensor

from hf_sparse.oneshot.layerwise import InputStatistics, share_out
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import keep_largest_of_rows


class Wanda(InputStatistics):
    """Removes the smallest |weight| * norm of its input (Sun et al. 2023, arXiv:2306.11695).

    Single weights compete within their row, and all rows lose the same share; blocks compete within the whole
    weight. The remaining weights are not changed.
    """

    def __init__(self, weight: Tensor, kept: Tensor | None = None) -> None:
        super().__init__(weight, kept)
        self.squares = torch.zeros(weight.shape[1], device=weight.device)

    def _add(self, inputs: Tensor) -> None:
        self.squares += inputs.square().sum(0)

    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return the mask (out, in) of those kept."""
        scores = self.weight.float().abs() * (self.squares / max(self.count, 1)).sqrt()
        # Below the score 0 of weights whose input is always zero.
        scores = scores.masked_fill(~self.kept, -torch.inf)
        if block.group > 1:
            keep = block.keeps(scores)
        elif block == UNSTRUCTURED:
            before = (~self.kept).sum(1)
            sizes = torch.full_like(before, scores.shape[1])
            removed = share_out(block.removed(scores.numel(), sparsity), sizes, before)
            keep = keep_largest_of_rows(scores, removed[:, None])
        else:
            pooled = block.pool(scores)
            flat = keep_largest_of_rows(pooled.reshape(1, -1), block.removed(pooled.numel(), sparsity))
            keep = block.expand(flat.view(pooled.shape))
        self.weight.masked_fill_(~keep, 0)
        return keep
