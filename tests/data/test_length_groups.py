"""Neighboring rows have similar lengths, in an order that depends on seed and epoch alone."""

import pytest
import torch
from torch.utils.data import DataLoader

from hf_sparse.data.length_groups import LengthGroups

LENGTHS = [3, 9, 4, 8, 5, 7, 6, 1] * 20


def groups(seed: int = 0, epoch: int = 0) -> LengthGroups:
    rows = LengthGroups(range(len(LENGTHS)), LENGTHS, batch_size=4, seed=seed)
    rows.set_epoch(epoch)
    return rows


def test_every_row_comes_once_in_every_epoch() -> None:
    for epoch in range(3):
        assert sorted(groups(epoch=epoch)) == list(range(len(LENGTHS)))


def test_batches_hold_next_to_no_padding() -> None:
    rows = groups()
    batches = [[LENGTHS[row] for row in batch] for batch in DataLoader(rows, batch_size=4)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding < 0.1 * sum(LENGTHS)
    random = [LENGTHS[start : start + 4] for start in range(0, len(LENGTHS), 4)]
    assert sum(max(batch) * len(batch) - sum(batch) for batch in random) > 0.3 * sum(LENGTHS)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = list(groups(seed=5, epoch=2))
    before = torch.get_rng_state()
    again = groups(seed=5)
    again.set_epoch(1)
    again.set_epoch(2)
    assert list(again) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert list(groups(seed=5, epoch=1)) != first != list(groups(seed=6, epoch=2))


def test_a_batch_is_read_at_once_where_the_rows_can_be() -> None:
    class Rows:
        asked: list[list[int]] = []

        def __len__(self) -> int:
            return len(LENGTHS)

        def __getitem__(self, index: int) -> int:
            raise AssertionError("one at a time")

        def __getitems__(self, indices: list[int]) -> list[int]:
            self.asked.append(indices)
            return indices

    rows = LengthGroups(Rows(), LENGTHS, batch_size=4)
    assert rows.__getitems__([0, 1]) == [list(groups())[0], list(groups())[1]] == Rows.asked[0]


def test_rows_below_are_told_the_epoch() -> None:
    class Rows(list):
        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    below = Rows(LENGTHS)
    LengthGroups(below, LENGTHS, batch_size=4).set_epoch(3)
    assert below.epoch == 3


def test_each_row_has_a_length() -> None:
    with pytest.raises(ValueError, match="3 rows have 2 lengths; give each row one"):
        LengthGroups([1, 2, 3], [1, 2], batch_size=2)
