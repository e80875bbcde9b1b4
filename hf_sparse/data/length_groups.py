"""Order rows so that batches hold similar lengths; a resumed run gets the same order again."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset
from transformers.trainer_pt_utils import get_length_grouped_indices


class Rows(Protocol):
    """A data set with a length and rows by index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class LengthGroups(Dataset):
    """A view of a data set in which neighbors have similar lengths, so batches need little padding.

    The order is that of transformers' `group_by_length`, new in every epoch. It is a pure function of (seed,
    epoch), so a resumed run gets it again; transformers draws it from the state of a random generator that a
    resumed run lacks. Use it in a Trainer with `train_sampling_strategy="sequential"` and an `EpochCallback`.

    Args:
        rows: The data set.
        lengths: The length of each row, in tokens.
        batch_size: Rows in a batch.
        seed: Seed of the order.

    Raises:
        ValueError: The numbers of rows and lengths differ.
    """

    def __init__(self, rows: Rows, lengths: Sequence[int], batch_size: int, seed: int = 0) -> None:
        if len(rows) != len(lengths):
            raise ValueError(f"{len(rows)} rows have {len(lengths)} lengths; give each row one")
        self.rows, self.lengths, self.batch_size, self.seed = rows, list(lengths), batch_size, seed
        # In shared memory, so that persistent workers of a data loader see a new order.
        self._order = torch.empty(len(lengths), dtype=torch.int64).share_memory_()
        self._epoch = -1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the order of an epoch, counted from 0, and pass the epoch on to `rows` if they take it."""
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
        """Read the rows of a batch at once if `rows` can."""
        chosen = self._order[list(indices)].tolist()
        if hasattr(self.rows, "__getitems__"):
            return self.rows.__getitems__(chosen)
        return [self.rows[index] for index in chosen]


def _mixed(seed: int, epoch: int) -> int:
    """Return a seed for the pair; epoch 1 of seed 0 differs from epoch 0 of seed 1."""
    return int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(seed))) + epoch
