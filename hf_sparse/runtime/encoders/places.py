"""What a fused encoder knows of the places of tokens: rotary embeddings and relative positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_sparse.runtime.bindings import Places, Relations
from hf_sparse.runtime.reference import halves

# Unused biases behind each row, as in kernels/encoder.h.
_PADDING = 16
# The kernels add biases to exponents of two.
LOG2_E = 1.44269504


@dataclass(frozen=True, eq=False)
class PlaceTables:
    """Tables of an encoder, float32 on the CPU.

    Attributes:
        rotations: Cosines and sines, (kinds, positions, 2 * pairs), or None.
        biases: What is added to a score times log2(e), by the place of the query less that of the key,
            (heads, 2 * reach + 1 and padding), or None.
        rows_of: The row of such a distance in the tables of each layer, int32, or None.
        rows: The number of rows of these tables, padding included.
        longest: The number of tokens of the longest text, or None if any length will do.
    """

    rotations: Tensor | None = None
    biases: Tensor | None = None
    rows_of: Tensor | None = None
    rows: int = 0
    longest: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        tables = self.rotations, self.biases, self.rows_of
        return sum(table.nbytes for table in tables if table is not None)

    def structure(self) -> Places:
        """Return the structure that the kernels read; the tables must outlive it."""
        places = Places()
        if self.rotations is not None:
            _, places.count, width = self.rotations.shape
            places.rotations, places.pairs = self.rotations.data_ptr(), width // 2
        if self.biases is not None:
            places.biases, places.reach = self.biases.data_ptr(), (self.biases.shape[1] - 1 - _PADDING) // 2
        if self.rows_of is not None:
            places.rows_of, places.reach = self.rows_of.data_ptr(), (len(self.rows_of) - 1 - _PADDING) // 2
            places.rows = self.rows
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


@dataclass(frozen=True, eq=False)
class RelationTables:
    """What queries and keys of one layer are multiplied with for each row of distances.

    `keys` and `queries` are words of two 16-bit codes in the order of `Relations` in kernels/places.h; the
    steps between codes are (heads,).
    """

    keys: Tensor
    queries: Tensor
    key_steps: Tensor
    query_steps: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.nbytes for table in vars(self).values())

    def structure(self) -> Relations:
        """Return the structure that the kernels read; the tables must outlive it."""
        return Relations(*(table.data_ptr() for table in vars(self).values()))


class PositionsAlone(nn.Module):
    """Stands in for rotary embeddings: returns the positions, since the kernels have the tables."""

    def forward(self, _states: Tensor, position_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        return position_ids


def rotation_table(rotary: nn.Module, kinds: Sequence[str | None], count: int) -> Tensor:
    """Return the cosines and sines of positions up to `count`, (kinds, count, 2 * pairs).

    Raises `ValueError` for rotary embeddings that turn other features than one of the first half with one of
    the second.
    """
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


def padded_rows(count: int) -> int:
    """Return a number of rows rounded up to whole vectors of every path."""
    return -(-count // _PADDING) * _PADDING


def row_table(encoder: Any, count: int) -> tuple[Tensor, int]:
    """Return the row of each distance of an encoder like DeBERTa's, up to `count`, and the number of rows."""
    buckets, most = encoder.position_buckets, encoder.max_relative_positions
    span = buckets if buckets > 0 else most
    # Distances of a query at each place from a key at the first one; those to the other side mirror them.
    ahead = encoder.get_rel_pos(torch.empty(1, 1, 1, device="cpu"), torch.empty(1, count, 1, device="cpu"))
    ahead = ahead.reshape(-1)
    both = torch.cat([-ahead.flip(0), ahead[1:]]).clamp(-span, span - 1) + span
    rows_of = nn.functional.pad(both, (0, _PADDING), value=2 * span - 1)
    return rows_of.to(torch.int32).contiguous(), 2 * span


def half_codes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return 16-bit codes of the values of a head (rows, width), as int32, and the step between them."""
    codes, step = halves(values, min(32767, int((2147483647 / values.shape[1]) ** 0.5)))
    return codes.to(torch.int32), step


def relation_tables(keys: Tensor | None, queries: Tensor | None, heads: int, lanes: int) -> RelationTables:
    """Return tables of projected positions, (rows, hidden) each; None stands for zeros."""
    some = keys if keys is not None else queries
    if some is None:
        raise ValueError("projected positions are needed for queries, keys or both")
    words, steps = [], []
    for projected in (keys, queries):
        by_head = (torch.zeros_like(some) if projected is None else projected).chunk(heads, 1)
        coded = [half_codes(head) for head in by_head]
        codes = torch.stack([codes.t() for codes, _ in coded])
        rows = padded_rows(codes.shape[2])
        codes = nn.functional.pad(codes, (0, rows - codes.shape[2], 0, codes.shape[1] % 2))
        words.append((codes[:, ::2] & 0xFFFF) | (codes[:, 1::2] << 16))
        steps.append(torch.stack([step for _, step in coded]).float())
    heads_, pairs, rows = words[1].shape
    by_vector = words[1].view(heads_, pairs, rows // lanes, lanes).transpose(1, 2)
    return RelationTables(words[0].contiguous(), by_vector.contiguous(), *steps)
