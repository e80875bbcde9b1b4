"""Batches are counted in sequences, non-padding tokens, labels that enter the loss, sentence labels."""

import pytest
import torch

from hf_sparse.distillation.batch_counts import Counts, count

IDS = torch.ones(2, 4, dtype=torch.long)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def counted(inputs: dict[str, object], shift_labels: bool = False) -> list[int]:
    """Return sequences, tokens, labels."""
    return count(inputs, shift_labels).values.tolist()[:3]


def test_class_labels_are_one_a_sequence() -> None:
    assert counted({"input_ids": IDS, "attention_mask": MASK, "labels": torch.tensor([0, 1])}) == [2, 5, 2]


def test_class_labels_of_minus_100_are_not_counted() -> None:
    assert counted({"input_ids": IDS, "labels": torch.tensor([0, -100])}) == [2, 8, 1]


def test_without_a_mask_every_token_counts() -> None:
    assert counted({"input_ids": IDS}) == [2, 8, 2]
    assert counted({"inputs_embeds": torch.zeros(2, 4, 8)}) == [2, 8, 2]


def test_token_labels_of_minus_100_are_not_counted() -> None:
    labels = torch.tensor([[-100, 7, -100, -100], [3, 8, -100, -100]])
    assert counted({"input_ids": IDS, "attention_mask": MASK, "labels": labels}) == [2, 5, 3]


def test_a_causal_model_predicts_no_first_label() -> None:
    labels = torch.tensor([[-100, 7, -100, -100], [3, 8, -100, -100]])
    assert counted({"input_ids": IDS, "labels": labels}, shift_labels=True) == [2, 8, 2]


def test_labels_that_are_shifted_already_are_taken_as_they_are() -> None:
    labels, shifted = torch.full((2, 4), 5), torch.tensor([[1, 2, 3, -100], [1, -100, -100, -100]])
    inputs = {"input_ids": IDS, "labels": labels, "shift_labels": shifted}
    assert counted(inputs, shift_labels=True) == [2, 8, 4]


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_float_labels_are_one_a_sequence(shape: tuple[int, ...]) -> None:
    assert counted({"input_ids": IDS, "labels": torch.zeros(shape)}) == [2, 8, 2]


@pytest.mark.parametrize(("start", "end", "labels"), [(0, 3, 2), (3, 3, 2), (9, 9, 1), (3, 4, 1), (4, 3, 1)])
def test_answers_count_where_they_lie_in_the_input(start: int, end: int, labels: int) -> None:
    positions = {"start_positions": torch.tensor([1, start]), "end_positions": torch.tensor([3, end])}
    assert counted({"input_ids": IDS, **positions}) == [2, 8, labels]


def test_inputs_other_than_text_count_as_sequences() -> None:
    assert counted({"pixel_values": torch.zeros(3, 2, 8, 8), "labels": torch.tensor([0, 1, 2])}) == [3, 3, 3]


@pytest.mark.parametrize("name", ["next_sentence_label", "sentence_order_label"])
def test_sentence_labels_of_minus_100_are_not_counted(name: str) -> None:
    tokens = torch.tensor([[-100, 7, -100, -100], [3, 8, -100, -100]])
    counts = count({"input_ids": IDS, "labels": tokens, name: torch.tensor([-100, 1])}, False)
    assert counts.values.tolist() == [2, 8, 3, 1]
    assert counts.sentences == 1
    none = count({"input_ids": IDS, name: torch.tensor([-100, -100])}, False)
    assert (none.sentences, none.of("sentences")) == (0, 1)


def test_counts_add_up_over_micro_batches() -> None:
    total = count({"input_ids": IDS}, False) + count({"input_ids": IDS, "attention_mask": MASK}, False)
    assert total.values.tolist() == [4, 13, 4, 4]


def test_what_divides_a_sum_is_never_zero() -> None:
    counts = count({"input_ids": IDS, "labels": torch.full((2, 4), -100)}, False)
    assert counts.labels == 0
    assert counts.of("labels") == 1
    assert counts.of("sequences") == 2
    assert counts.of("tokens") == 8


def test_a_batch_without_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without tensors, got \['labels'\]"):
        count({"labels": None}, False)


@pytest.mark.parametrize("values", [torch.zeros(2, dtype=torch.long), torch.zeros(3)])
def test_counts_check_themselves(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="int64 tensor of shape"):
        Counts(values)
