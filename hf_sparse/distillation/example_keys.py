"""The examples of a batch as a teacher sees them: their tokens without padding, and a key for each."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

_IDS, _EMBEDS, _MASK = "input_ids", "inputs_embeds", "attention_mask"
KEY_BYTES = 16
# Columns with more dimensions are not of tokens; those of images may be as large as a text is long.
_MOST = 3


@dataclass(frozen=True, eq=False)
class Examples:
    """The rows of a batch.

    Args:
        keys: For each row a hash of what a teacher sees of it.
        keep: Boolean mask (batch, length) of the tokens, on the CPU. None for rows that do not consist of
            tokens, such as images; they are taken whole.
    """

    keys: tuple[bytes, ...]
    keep: Tensor | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Examples":
        """Read the inputs of a teacher.

        Padding enters no key, so an example has the same one in every batch. If its tokens do not begin at
        the first position, or have padding between them, their positions enter its key, since a teacher may
        compute something else at other positions. A mask of ones counts like none.

        Args:
            given: The inputs by name: tensors whose first dimension is the batch, or plain values.

        Raises:
            ValueError: The inputs cannot be divided into examples.
        """
        columns = {name: value.detach().cpu() for name, value in given.items() if isinstance(value, Tensor)}
        others = {name: value for name, value in given.items() if name not in columns and value is not None}
        _check(columns, others)
        keep = _tokens(columns)
        known = hashlib.blake2b(repr(sorted(others.items())).encode(), digest_size=KEY_BYTES)
        hashes = [known.copy() for _ in range(len(next(iter(columns.values()))))]
        places = None if keep is None else _places(keep)
        for name in sorted(columns):
            column = _as_array(columns[name])
            if keep is None or places is None or column.ndim > _MOST or column.shape[:2] != keep.shape:
                rows = list(column)
            else:
                rows = [values[place] for values, place in zip(column, places, strict=True)]
            for digest, values in zip(hashes, rows, strict=True):
                if name == _MASK and places is not None and (values == 1).all():
                    continue
                digest.update(f"{name} {values.dtype} {values.shape}".encode())
                digest.update(values.tobytes())
        for digest, place in zip(hashes, places or (), strict=False):
            if not isinstance(place, slice):
                digest.update(place.tobytes())
        return cls(tuple(digest.digest() for digest in hashes), keep)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """The number of tokens of each row, 0 for rows that are taken whole."""
        return (0,) * len(self.keys) if self.keep is None else tuple(self.keep.sum(1).tolist())


def select(given: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Return some rows of a batch."""
    return {
        name: value[torch.tensor(rows, device=value.device)] if isinstance(value, Tensor) else value
        for name, value in given.items()
    }


def _as_array(column: Tensor) -> np.ndarray:
    if column.dtype == torch.bfloat16:
        # numpy lacks this type.
        return column.view(torch.int16).numpy()
    return (column if column.is_floating_point() or column.dtype == torch.bool else column.long()).numpy()


def _places(keep: Tensor) -> list[slice | np.ndarray]:
    """Return where the tokens of each row are; a slice if they stand before all padding."""
    array = keep.numpy()
    return [
        slice(count) if row[:count].all() else row.nonzero()[0]
        for row, count in zip(array, array.sum(1).tolist(), strict=True)
    ]


def _tokens(columns: Mapping[str, Tensor]) -> Tensor | None:
    """Return the mask (batch, length) of tokens, None if rows are something else than one text each."""
    texts = columns.get(_IDS, columns.get(_EMBEDS))
    if texts is None or texts.dim() != (2 if _IDS in columns else 3):
        return None
    mask = columns.get(_MASK)
    if mask is None:
        return torch.ones(texts.shape[:2], dtype=torch.bool)
    return mask != 0 if mask.shape == texts.shape[:2] else None


def _check(columns: Mapping[str, Tensor], others: Mapping[str, Any]) -> None:
    rows = {len(column) if column.dim() else None for column in columns.values()}
    strange = [name for name, value in others.items() if not isinstance(value, bool | int | float | str)]
    if len(rows) != 1 or None in rows or strange:
        shapes = [f"{name} {tuple(column.shape)}" for name, column in columns.items()]
        raise ValueError(
            f"the teacher cache divides a batch into examples by the first dimension of its inputs, and they "
            f"are {', '.join([*shapes, *strange])}; take a collator that pads and stacks rows, or leave "
            "teacher_cache out"
        )
