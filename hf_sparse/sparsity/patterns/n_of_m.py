"""N:M sparsity, N weights kept of every M consecutive inputs (Mishra et al. 2021, arXiv:2104.08378)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.numpy_ops import nonzero
from hf_sparse.sparsity.patterns.block import Array, Block

# How far the sparsity may exceed that of N:M where the pattern explains the zeros of a weight.
_EXCESS = 0.02


@dataclass(frozen=True)
class NOfM(Block):
    """Single weights; the `kept` best of every `group` consecutive inputs cannot be removed."""

    kept: int = 2
    group: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.kept < self.group:
            raise ValueError(f"N:M keeps 1 to M - 1 of M weights, got {self.kept}:{self.group}")

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"

    @property
    def share(self) -> float:
        return 1 - self.kept / self.group

    @property
    def pools(self) -> bool:
        return True

    def fit(self, name: str, shape: tuple[int, int]) -> "NOfM":
        if shape[1] % self.group:
            raise ValueError(
                f"pattern {self} does not fit {name} of shape {shape[0]} x {shape[1]}: its {shape[1]} inputs "
                f"are not a multiple of {self.group}; exclude that module or choose another pattern"
            )
        return self

    def pool(self, scores: Array) -> Array:
        """Return the scores (out, in), infinite for weights that stay; of equals the earlier ones go."""
        groups = scores.reshape(scores.shape[0], -1, self.group)
        if isinstance(groups, np.ndarray):
            # Contiguous, and without conditions: numpy takes several times longer with either.
            columns = [np.ascontiguousarray(groups[..., index]) for index in range(self.group)]
            least = np.where(np.arange(self.group) < self.kept, np.inf, -np.inf).astype(scores.dtype)
            pooled = np.empty_like(groups)
            for index, own in enumerate(columns):
                better = sum(better.view(np.int8) for better in _better(columns, index))
                pooled[..., index] = np.fmax(own, least.take(better, mode="clip"))
        else:
            columns = [groups[..., index] for index in range(self.group)]
            pooled = groups.clone()
            for index in range(self.group):
                better = sum(better.to(torch.int8) for better in _better(columns, index))
                pooled[..., index][better < self.kept] = np.inf
        return pooled.reshape(scores.shape)

    def filled(self, weight: Tensor) -> Tensor:
        return nonzero(weight)

    def protect(self, scores: Tensor) -> Tensor:
        return self.pool(scores)

    def keeps(self, scores: Tensor) -> Tensor:
        """Return as booleans the `kept` highest scores of every group; of equals the later ones."""
        groups = scores.reshape(-1, self.group)
        return keep_largest_of_rows(groups, self.group - self.kept).view(scores.shape)

    def check_kept(self, name: str, keep: Tensor) -> None:
        """Raise `ValueError` if a group of a mask (out, in) keeps fewer weights than the pattern does."""
        if short := int((keep.reshape(-1, self.group).sum(1) < self.kept).sum()):
            raise ValueError(
                f"{short} groups of {name} have fewer weights left than the {self.kept} of {self.group} that "
                f"pattern {self} keeps; choose unstructured, or start from the dense model"
            )

    def removed(self, blocks: int, sparsity: float) -> int:
        most = blocks // self.group * (self.group - self.kept)
        # The final sparsity is written as a decimal, and that of 1:3 is rounded.
        return most if sparsity > self.share - 1e-3 else min(super().removed(blocks, sparsity), most)

    def explains(self, filled: np.ndarray, zeros: int) -> bool:
        """Return whether the zeros of a weight are these: enough in every group, and hardly any beyond."""
        if not self.share - 1e-9 <= zeros / filled.size <= self.share + _EXCESS:
            return False
        counts = Block(1, self.group).sums(filled.view(np.uint8))
        return bool((counts <= self.kept).all())


def _better(columns: Sequence[Array], index: int) -> Iterator[Array]:
    """Return as booleans where each other column of a group wins over one; of equals the later one wins."""
    # Pairwise: sorting groups of four is several times slower.
    own = columns[index]
    for later, other in enumerate(columns):
        if later != index:
            yield other >= own if later > index else other > own


def keep_largest_of_rows(scores: Tensor, removed: int | Tensor) -> Tensor:
    """Return a mask of `scores` (rows, columns) without the lowest of each row; of equal scores the first go.

    `removed` is how many to remove from every row, or a count per row (rows, 1).
    """
    order = scores.argsort(dim=1, stable=True)
    stays = torch.arange(scores.shape[1], device=scores.device) >= removed
    return torch.empty_like(scores, dtype=torch.bool).scatter_(1, order, stays.expand_as(order))


def read_n_of_m(text: str) -> NOfM | None:
    """Read `N:M`, such as `2:4`: two of every four consecutive inputs are kept."""
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    return NOfM(kept=int(match[1]), group=int(match[2])) if match else None
