"""Scores that are ranked, read a chunk at a time: all scores of a large model would not fit in memory."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hf_sparse.sparsity.patterns.block import Array, Block
from hf_sparse.sparsity.streamed.mask_storage import BitMask

# Scores per chunk: 512 KiB of fp32 stay in a core's cache, and numpy's overhead per call is negligible.
CHUNK = 1 << 17
# Rows of blocks in a sample, at least: neighbours in a row are alike.
_ROWS = 16
_EXACT = (torch.float32, torch.float64)


class Score(Protocol):
    """Maps weights to scores entry by entry, numpy arrays and tensors alike, into `out` where it is given."""

    def __call__(self, weight: Array, out: Array | None = None) -> Array: ...


class RankedScores(Protocol):
    """The scores of one weight in row-major order, computed anew whenever they are read.

    `size` is how many there are. They are read on the CPU in chunks, which last until the next one is read.
    """

    size: int
    dtype: np.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        """Return all scores in order, a chunk at a time, on the CPU."""
        ...

    def __getitem__(self, step: slice) -> np.ndarray:
        """Return a sample of the scores, on the CPU: about every one in `step.step`."""
        ...


class SingleScores:
    """The scores of single weights; those that a mask has removed have minus infinity."""

    def __init__(self, values: Tensor, score: Score, mask: BitMask | None = None) -> None:
        self._values, self._score, self._mask = values.detach(), score, mask
        self.size = values.numel()
        self.dtype = np.dtype(np.float64 if values.dtype == torch.float64 else np.float32)

    def chunks(self) -> Iterator[np.ndarray]:
        keep = None if self._mask is None else self._mask.unpack().reshape(-1).numpy()
        buffer, start = np.empty(0, self.dtype), 0
        for values in self._floats():
            if values.size > buffer.size:
                # Allocated once: at this size fresh pages cost more than the arithmetic.
                buffer = np.empty(values.size, self.dtype)
            scores = self._score(values, out=buffer[: values.size])
            if keep is not None:
                scores = np.where(keep[start : start + values.size], scores, -np.inf)
            start += values.size
            yield scores

    def __getitem__(self, step: slice) -> np.ndarray:
        values = self._values
        if values.is_contiguous() or values.dim() != 2:
            sampled = values.reshape(-1)[step]
        else:
            index = torch.arange(self.size)[step]
            sampled = values[index // values.shape[1], index % values.shape[1]]
        sampled = sampled if sampled.dtype in _EXACT else sampled.float()
        return self._score(sampled.contiguous().numpy())

    def _floats(self) -> Iterator[np.ndarray]:
        """Return the values in row-major order as flat arrays of floats that numpy computes with."""
        values = self._values
        if values.is_contiguous() or values.dim() != 2:
            parts: Tensor = values.reshape(-1)
            step = CHUNK
        else:
            parts, step = values, max(CHUNK // values.shape[1], 1)
        # numpy lacks bfloat16, and its float16 arithmetic is emulated.
        exact = torch.empty(0 if values.dtype in _EXACT else min(CHUNK, self.size), dtype=torch.float32)
        for part in parts.split(step):
            part = part.reshape(-1)
            if part.dtype in _EXACT:
                yield part.numpy()
            elif part.numel() <= exact.numel():
                yield exact[: part.numel()].copy_(part).numpy()
            else:
                yield part.float().numpy()


class BlockScores:
    """The scores of blocks, pooled from those of weights; blocks of removed weights have minus infinity."""

    def __init__(self, weight: Tensor, score: Score, block: Block, mask: BitMask | None = None) -> None:
        self._weight, self._score, self._block, self._mask = weight.detach(), score, block, mask
        self.size = weight.numel() // block.size
        self.dtype = np.dtype(np.float64 if weight.dtype == torch.float64 else np.float32)

    def chunks(self) -> Iterator[np.ndarray]:
        keep = None if self._mask is None else self._mask.unpack()
        rows, columns = self._weight.shape
        band = max(CHUNK // columns // self._block.rows, 1) * self._block.rows
        # Allocated once: at this size fresh pages cost more than the arithmetic.
        buffer = np.empty((min(band, rows), columns), self.dtype)
        for start in range(0, rows, band):
            stop = start + band
            yield self._pool(self._weight[start:stop], None if keep is None else keep[start:stop], buffer)

    def __getitem__(self, step: slice) -> np.ndarray:
        rows, columns = (
            self._weight.shape[0] // self._block.rows,
            self._weight.shape[1] // self._block.columns,
        )
        wanted = max(self.size // (step.step or 1), 1)
        count = min(rows, max(_ROWS, -(-wanted // columns)))
        bands = torch.linspace(0, rows - 1, count).long()[:, None] * self._block.rows
        chosen = (bands + torch.arange(self._block.rows)).flatten()
        keep = None if self._mask is None else self._mask.unpack()[chosen]
        scores = self._pool(self._weight[chosen], keep)
        return scores[:: max(scores.size // wanted, 1)]

    def all(self) -> Tensor:
        """Return all scores, flat, on the device of the weight."""
        # Squares of half-precision numbers may underflow.
        weight = self._weight
        scores = self._score(weight.to(torch.promote_types(weight.dtype, torch.float32)))
        if self._mask is not None:
            scores = scores.masked_fill(~self._mask.unpack(), -torch.inf)
        return self._block.pool(scores).flatten()

    def held(self) -> SingleScores:
        """Return the same scores, computed once and kept in memory."""
        scores, start = np.empty(self.size, self.dtype), 0
        for chunk in self.chunks():
            scores[start : start + chunk.size] = chunk
            start += chunk.size
        return SingleScores(torch.from_numpy(scores), identity)

    def _pool(self, weight: Tensor, keep: Tensor | None, buffer: np.ndarray | None = None) -> np.ndarray:
        values = (weight if weight.dtype in _EXACT else weight.float()).numpy()
        scores = self._score(values, out=None if buffer is None else buffer[: len(values)])
        if keep is not None:
            scores = np.where(keep.numpy(), scores, -np.inf)
        return self._block.pool(scores).reshape(-1)


def identity(weight: Array, out: Array | None = None) -> Array:
    """Score a weight, or a score, by itself."""
    return weight
