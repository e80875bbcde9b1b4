"""What calibration texts say about the inputs of one layer, and which of its weights it can do without."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import keep_largest_of_rows


class InputStatistics(ABC):
    """Collects the inputs of one weight (out, in), then chooses what to remove.

    `kept` says as booleans (out, in) what is not removed yet: by default nothing is. What is removed are
    zeros, which stay and count. `knows_blocks` says whether whole blocks may go, or single weights alone.
    """

    knows_blocks = True

    def __init__(self, weight: Tensor, kept: Tensor | None = None) -> None:
        self.weight, self.count = weight, 0
        self.kept = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept

    def add(self, inputs: Tensor) -> None:
        """Take note of inputs (tokens, in)."""
        self.count += len(inputs)
        self._add(inputs.float())

    @abstractmethod
    def _add(self, inputs: Tensor) -> None: ...

    @abstractmethod
    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place until this share is gone, and return as booleans (out, in) what was kept.

        No more than that may be gone before.
        """


class Wanda(InputStatistics):
    """Removes the smallest |weight| * norm of its input (Sun et al. 2023, arXiv:2306.11695).

    Single weights compete within their row, and all rows lose the same share; blocks compete within the whole
    weight. What is left stays as it is.
    """

    def __init__(self, weight: Tensor, kept: Tensor | None = None) -> None:
        super().__init__(weight, kept)
        self.squares = torch.zeros(weight.shape[1], device=weight.device)

    def _add(self, inputs: Tensor) -> None:
        self.squares += inputs.square().sum(0)

    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return as booleans (out, in) what was kept."""
        scores = self.weight.float().abs() * (self.squares / max(self.count, 1)).sqrt()
        # Below the zeros of inputs that are never there.
        scores = scores.masked_fill(~self.kept, -torch.inf)
        if block.group > 1:
            keep = block.keeps(scores)
        elif block == UNSTRUCTURED:
            standing = (~self.kept).sum(1)
            sizes = torch.full_like(standing, scores.shape[1])
            removed = _shared_out(block.removed(scores.numel(), sparsity), sizes, standing)
            keep = keep_largest_of_rows(scores, removed[:, None])
        else:
            pooled = block.pool(scores)
            flat = keep_largest_of_rows(pooled.reshape(1, -1), block.removed(pooled.numel(), sparsity))
            keep = block.expand(flat.view(pooled.shape))
        self.weight.masked_fill_(~keep, 0)
        return keep


class SparseGpt(InputStatistics):
    """Removes what the layer's output misses least, and lets other weights make up for it.

    Frantar & Alistarh 2023 (arXiv:2301.00774, algorithm 1): columns from left to right in bands, within a
    band the smallest w^2 / [H^-1]_jj go, and later columns take over the error. H = 2 X X^T / tokens, with
    `DAMPING` times its mean diagonal added. Inputs that are always zero lose their weights. What a weight
    that was removed before would take over goes on to the columns behind it.
    """

    knows_blocks = False
    BAND, DAMPING = 128, 0.01

    def __init__(self, weight: Tensor, kept: Tensor | None = None) -> None:
        super().__init__(weight, kept)
        self.hessian = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)

    def _add(self, inputs: Tensor) -> None:
        self.hessian.addmm_(inputs.t(), inputs, alpha=2.0)

    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return as booleans (out, in) what was kept."""
        values, keep = self.weight.float(), self.kept.clone()
        dead = self.hessian.diagonal() == 0
        inverse = self._inverse_factor(dead)
        values[:, dead] = 0
        columns = values.shape[1]
        # A group lies within one band.
        width = max(self.BAND // block.group, 1) * block.group
        bands = [slice(first, min(first + width, columns)) for first in range(0, columns, width)]
        sizes = torch.tensor([keep[:, band].numel() for band in bands])
        standing = torch.tensor([int((~keep[:, band]).sum()) for band in bands])
        removed = _shared_out(block.removed(values.numel(), sparsity), sizes, standing)
        for band, gone in zip(bands, removed.tolist(), strict=True):
            errors = self._prune_band(values, keep, inverse, band, gone, block)
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
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "the inputs of a layer are too much alike to tell its weights apart, or are not finite; give "
                "more texts, or choose method wanda"
            ) from error

    def _prune_band(
        self, values: Tensor, keep: Tensor, inverse: Tensor, band: slice, gone: int, block: Block
    ) -> Tensor:
        """Remove `gone` weights of a band of columns, and return the errors for later ones to take over."""
        own, kept = values[:, band], keep[:, band]
        factor = inverse[band, band]
        if block.group == 1:
            scores = (own / factor.diagonal()).square().masked_fill(~kept, -torch.inf)
            kept.copy_(keep_largest_of_rows(scores.reshape(1, -1), gone).view(own.shape))
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


def _shared_out(removed: int, sizes: Tensor, standing: Tensor) -> Tensor:
    """Return how many of so many weights are to be removed in every part, in proportion to its size.

    Where more than that stands removed it stays, and the others lose less; the sum is `removed` in any case.
    """
    room = (_in_proportion(removed, sizes) - standing).clamp(min=0)
    return standing + _in_proportion(removed - standing.sum(), room)


def _in_proportion(total: int | Tensor, sizes: Tensor) -> Tensor:
    ends = total * sizes.cumsum(0) // sizes.sum().clamp(min=1)
    return ends.diff(prepend=ends.new_zeros(1))


STATISTICS: dict[str, type[InputStatistics]] = {"wanda": Wanda, "sparse_gpt": SparseGpt}
