"""What a fused encoder knows of the places of tokens: rotary embeddings and biases of relative positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_sparse.runtime.bindings import Places

# Unused biases behind each row, as in kernels/encoder.h.
_PADDING = 16
# The kernels add biases to exponents of two.
LOG2_E = 1.44269504
# Rotary embeddings whose tables depend on the length of a text.
_VARIABLE = ("dynamic", "longrope")


@dataclass(frozen=True, eq=False)
class PlaceTables:
    """Tables of an encoder, float32 on the CPU.

    Attributes:
        rotations: Cosines and sines, (kinds, positions, 2 * pairs), or None.
        biases: What is added to a score times log2(e), by the place of the query less that of the key,
            (heads, 2 * reach + 1 and padding), or None.
        longest: The number of tokens of the longest text, or None if any length will do.
    """

    rotations: Tensor | None = None
    biases: Tensor | None = None
    longest: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.nbytes for table in (self.rotations, self.biases) if table is not None)

    def structure(self) -> Places:
        """Return the structure that the kernels read; the tables must outlive it."""
        places = Places()
        if self.rotations is not None:
            _, places.count, width = self.rotations.shape
            places.rotations, places.pairs = self.rotations.data_ptr(), width // 2
        if self.biases is not None:
            places.biases, places.reach = self.biases.data_ptr(), (self.biases.shape[1] - 1 - _PADDING) // 2
        return places

    def positions(self, positions: Tensor | None, batch: int, length: int) -> Tensor | None:
        """Return the position of each token as (batch, length) int32; None stands for its place.

        Raises `ValueError` for texts and positions that the tables do not reach.
        """
        if self.longest is not None and length > self.longest:
            raise ValueError(
                f"a text has {length} tokens, and this model was made for {self.longest} at most; shorten it"
            )
        if positions is None or self.rotations is None:
            return None
        count = self.rotations.shape[1]
        if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < count:
            raise ValueError(
                f"positions go from {int(positions.min())} to {int(positions.max())}, and this model has "
                f"positions from 0 to {count - 1}"
            )
        return positions.expand(batch, length).to("cpu", torch.int32).contiguous()


class PositionsAlone(nn.Module):
    """Stands in for rotary embeddings: returns the positions, since the kernels have the tables."""

    def forward(self, _states: Tensor, position_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return position_ids


def rotation_table(rotary: nn.Module, kinds: Sequence[str | None], count: int) -> Tensor:
    """Return the cosines and sines of positions up to `count`, (kinds, count, 2 * pairs).

    Raises `ValueError` for rotary embeddings that depend on the length of a text, or turn other features than
    one of the first half with one of the second.
    """
    of_kinds = getattr(rotary, "rope_type", None)
    for name in of_kinds.values() if isinstance(of_kinds, dict) else [of_kinds]:
        if name in _VARIABLE:
            raise ValueError(f"its rotary embeddings are {name}, which depend on the length of a text")
    states, positions = torch.zeros(1, device="cpu"), torch.arange(count, device="cpu")[None]
    tables = []
    for kind in kinds:
        cosines, sines = rotary(states, positions, **({} if kind is None else {"layer_type": kind}))
        pairs = cosines.shape[-1] // 2
        if any(not torch.equal(table[..., :pairs], table[..., pairs:]) for table in (cosines, sines)):
            raise ValueError("its rotary embeddings turn features by angles of their own")
        tables.append(torch.cat([cosines[0, :, :pairs], sines[0, :, :pairs]], -1))
    return torch.stack(tables).float().contiguous()


def bias_table(encoder: Any, count: int) -> Tensor:
    """Return the biases of an encoder with `compute_position_bias`, for texts of up to `count` tokens."""
    with torch.no_grad():
        biases = encoder.compute_position_bias(torch.empty(1, count, 1, device="cpu"))[0]
    by_distance = torch.cat([biases[:, 0].flip(1), biases[:, 1:, 0]], 1).float() * LOG2_E
    return nn.functional.pad(by_distance, (0, _PADDING)).contiguous()
