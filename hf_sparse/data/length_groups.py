"""Rows of one length after another, in an order that a resumed run finds again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroups(Dataset):
    """Another data set in an order in which rows of about the same length lie side by side.

    Batches of `batch_size` neighbours then hold little padding. `lengths` are those of the rows, in tokens.
    The order is that of transformers' `group_by_length`, drawn anew in every epoch: a pure function of
    (seed, epoch), where transformers draws it from random numbers that a resumed run no longer has. For a
    Trainer with `train_sampling_strategy="sequential"` and an `EpochCallback`. Raises `ValueError` unless
    each row has a length.
    """

    def __init__(
        self, rows: Dataset | Sequence[Any], lengths: Sequence[int], batch_size: int, seed: int = 0
    ) -> None:
        if len(rows) != len(lengths):
            raise ValueError(f"{len(rows)} rows have {len(lengths)} lengths; give each row one")
        self.rows, self.lengths, self.batch_size, self.seed = rows, list(lengths), batch_size, seed
        # In shared memory, where persistent workers of a data loader see it change.
        self._order = torch.empty(len(lengths), dtype=torch.int64).share_memory_()
        self._epoch = -1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0, here and in the data set below."""
        if epoch == self._epoch:
            return
        self._epoch = epoch
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        self._order.copy_(torch.tensor(order, dtype=torch.int64))
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[int(self._order[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Read the rows of a batch at once, where the data set below can."""
        chosen = self._order[list(indices)].tolist()
        if hasattr(self.rows, "__getitems__"):
            return self.rows.__getitems__(chosen)
        return [self.rows[index] for index in chosen]


def _mixed(seed: int, epoch: int) -> int:
    """Return a seed for each pair of both, so that epoch 1 of seed 0 is not epoch 0 of seed 1."""
    return int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(seed))) + epoch
