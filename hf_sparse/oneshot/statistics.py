"""What calibration texts say about the inputs of one layer, and which of its weights it can do without."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM


class InputStatistics(ABC):
    """Collects the inputs of one weight (out, in), then chooses what to remove.

    `knows_blocks` says whether that may be whole blocks, or single weights alone.
    """

    knows_blocks = True

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.count = weight, 0

    def add(self, inputs: Tensor) -> None:
        """Take note of inputs (tokens, in)."""
        self.count += len(inputs)
        self._add(inputs.float())

    @abstractmethod
    def _add(self, inputs: Tensor) -> None: ...

    @abstractmethod
    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return as booleans (out, in) what was kept."""


class Wanda(InputStatistics):
    """Removes the smallest |weight| * norm of its input (Sun et al. 2023, arXiv:2306.11695).

    Single weights compete within their row, which loses floor(sparsity * in) of them; blocks compete within
    the whole weight. What is left stays as it is.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.squares = torch.zeros(weight.shape[1], device=weight.device)

    def _add(self, inputs: Tensor) -> None:
        self.squares += inputs.square().sum(0)

    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return as booleans (out, in) what was kept."""
        scores = self.weight.float().abs() * (self.squares / max(self.count, 1)).sqrt()
        if block == UNSTRUCTURED:
            keep = _keep_largest(scores, int(sparsity * scores.shape[1]))
        elif isinstance(block, NOfM):
            keep = _keep_of_groups(scores, block)
        else:
            pooled = block.pool(scores)
            flat = _keep_largest(pooled.reshape(1, -1), block.removed(pooled.numel(), sparsity))
            keep = block.expand(flat.view(pooled.shape))
        self.weight.masked_fill_(~keep, 0)
        return keep


class SparseGpt(InputStatistics):
    """Removes what the layer's output misses least, and lets other weights make up for it.

    Frantar & Alistarh 2023 (arXiv:2301.00774, algorithm 1): columns from left to right in bands, within a
    band the smallest w^2 / [H^-1]_jj go, and later columns take over the error. H = 2 X X^T / tokens, with
    `DAMPING` times its mean diagonal added. Inputs that are always zero lose their weights.
    """

    knows_blocks = False
    BAND, DAMPING = 128, 0.01

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.hessian = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)

    def _add(self, inputs: Tensor) -> None:
        self.hessian.addmm_(inputs.t(), inputs, alpha=2.0)

    def prune(self, sparsity: float, block: Block) -> Tensor:
        """Remove weights in place and return as booleans (out, in) what was kept."""
        values, keep = self.weight.float(), torch.ones_like(self.weight, dtype=torch.bool)
        dead = self.hessian.diagonal() == 0
        inverse = self._inverse_factor(dead)
        values[:, dead] = 0
        rows, columns = values.shape
        width = self.BAND
        if isinstance(block, NOfM):
            # A group lies within one band.
            width = max(width // block.group, 1) * block.group
        for first in range(0, columns, width):
            last = min(first + width, columns)
            gone = int(sparsity * rows * last) - int(sparsity * rows * first)
            errors = self._prune_band(values, keep, inverse, slice(first, last), gone, block)
            values[:, last:] -= errors @ inverse[first:last, last:]
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
        """Prune a band of columns, and return the errors that later columns are to take over."""
        own, kept = values[:, band], keep[:, band]
        factor = inverse[band, band]
        if not isinstance(block, NOfM):
            scores = (own / factor.diagonal()).square().reshape(1, -1)
            kept.copy_(_keep_largest(scores, gone).view(own.shape))
        errors = torch.zeros_like(own)
        for column in range(own.shape[1]):
            if isinstance(block, NOfM) and column % block.group == 0:
                group = slice(column, column + block.group)
                kept[:, group] = _keep_of_groups((own[:, group] / factor.diagonal()[group]).square(), block)
            error = own[:, column].masked_fill(kept[:, column], 0) / factor[column, column]
            own[:, column:] -= error[:, None] * factor[column, column:]
            errors[:, column] = error
        return errors


def _keep_largest(scores: Tensor, removed: int) -> Tensor:
    """Return as booleans what is left of every row without its lowest scores; of equals the first ones go."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    return keep.scatter_(1, scores.argsort(dim=1, stable=True)[:, :removed], False)


def _keep_of_groups(scores: Tensor, block: NOfM) -> Tensor:
    groups = scores.reshape(-1, block.group)
    return _keep_largest(groups, block.group - block.kept).view(scores.shape)


STATISTICS: dict[str, type[InputStatistics]] = {"wanda": Wanda, "sparse_gpt": SparseGpt}
