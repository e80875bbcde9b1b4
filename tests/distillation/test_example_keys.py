"""The key of an example depends on what a teacher sees of it, and on nothing else."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_sparse.distillation.example_keys import Examples, select

IDS = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
BATCH = {"input_ids": IDS, "attention_mask": MASK}


def keys(**columns: Tensor | str | None) -> tuple[bytes, ...]:
    return Examples.of(columns).keys


def test_padding_and_neighbours_do_not_matter() -> None:
    own = keys(**BATCH)
    assert own[0] != own[1]
    longer = {name: pad(value, (0, 3)) for name, value in BATCH.items()}
    assert keys(**longer) == own
    assert keys(**select(BATCH, [1])) == own[1:]
    assert keys(**select(BATCH, [1, 0, 1])) == (own[1], own[0], own[1])
    other = {"input_ids": IDS.where(MASK.bool(), torch.tensor(77)), "attention_mask": MASK}
    assert keys(**other) == own


def test_a_mask_of_ones_counts_like_none_and_whole_numbers_of_any_width_alike() -> None:
    own = keys(**BATCH)
    assert keys(input_ids=IDS)[0] == own[0]
    assert keys(input_ids=IDS)[1] != own[1]
    assert keys(input_ids=IDS.int(), attention_mask=MASK.bool()) == own


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": IDS + 1},
        {"token_type_ids": torch.ones_like(IDS)},
        {"position_ids": torch.arange(4).flip(0).expand(2, 4)},
        {"attention_mask": 2 * MASK},
        {"head": torch.tensor([1, 2])},
        {"image": torch.zeros(2, 3, 4, 4)},
        {"task": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_else_that_a_teacher_sees_matters(change: dict[str, Tensor]) -> None:
    assert set(keys(**BATCH | change)).isdisjoint(keys(**BATCH))


def test_tokens_at_other_positions_are_another_example() -> None:
    left = {name: pad(value, (2, 0)) for name, value in BATCH.items()}
    assert set(keys(**left)).isdisjoint(keys(**BATCH))
    assert keys(**left) == keys(**{name: pad(value, (0, 1)) for name, value in left.items()})
    holes = torch.tensor([[1, 0, 1, 1]])
    assert keys(input_ids=IDS[:1], attention_mask=holes) != keys(input_ids=IDS[:1, [0, 2, 3]])


def test_what_is_not_one_text_a_row_is_taken_whole() -> None:
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    examples = Examples.of({"pixel_values": images})
    assert examples.keep is None and examples.tokens == (0, 0)
    assert keys(pixel_values=images[1:]) == examples.keys[1:]
    assert keys(pixel_values=images.bfloat16()) != examples.keys
    choices = {"input_ids": IDS[:, None].expand(2, 2, 4), "attention_mask": MASK[:, None].expand(2, 2, 4)}
    assert Examples.of(choices).keep is None


def test_the_number_of_tokens_is_known() -> None:
    assert Examples.of(BATCH).tokens == (4, 3)
    assert Examples.of({"inputs_embeds": torch.zeros(2, 5, 3)}).tokens == (5, 5)


@pytest.mark.parametrize(
    "batch",
    [{}, {"input_ids": IDS, "lengths": torch.tensor([4])}, {"input_ids": IDS, "step": torch.tensor(1)}],
)
def test_a_batch_without_rows_is_refused(batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"first dimension of its inputs.*leave teacher_cache out"):
        Examples.of(batch)


def test_values_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="input_ids .2, 4., spans"):
        Examples.of({"input_ids": IDS, "spans": [[1, 2]]})
