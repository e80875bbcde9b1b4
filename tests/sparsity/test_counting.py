"""Counts over tensors of every type."""

import math

import pytest
import torch

from hf_sparse.sparsity.counting import any_greater, count_nonzero, negate, nonzero

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_that_are_not_zero_are_found_and_counted(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1, 0], [1, 1, 0]]).to(dtype)
    assert count_nonzero(values) == 3
    assert nonzero(values).dtype == torch.bool
    assert nonzero(values).tolist() == [[False, True, False], [True, True, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_negative_zero_is_zero_and_nan_is_not(dtype: torch.dtype) -> None:
    values = torch.tensor([-0.0, math.nan, math.inf, 0.0], dtype=dtype)
    assert count_nonzero(values) == 2
    assert nonzero(values).tolist() == [False, True, True, False]


def test_the_smallest_subnormal_is_not_zero() -> None:
    assert count_nonzero(torch.tensor([5e-324], dtype=torch.float64)) == 1
    assert count_nonzero(torch.tensor([1e-45])) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_are_counted_as_they_look(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1, 1], [0, 1, 0]]).to(dtype)
    assert count_nonzero(values.t()) == 3
    assert count_nonzero(values[:, ::2]) == 1
    assert nonzero(values.t()).int().tolist() == [[0, 0], [1, 1], [1, 0]]


def test_parameters_are_counted() -> None:
    assert count_nonzero(torch.nn.Parameter(torch.tensor([0.0, 2.0]))) == 1


@pytest.mark.parametrize(
    ("one", "other", "exceeds"),
    [([0, 0], [0, 0], False), ([0, 1], [255, 1], False), ([1, 0], [0, 255], True), ([1, 1], [255, 0], True)],
)
def test_one_number_that_exceeds_its_neighbour_is_enough(one: list, other: list, exceeds: bool) -> None:
    assert any_greater(torch.tensor(one).to(torch.uint8), torch.tensor(other).to(torch.uint8)) is exceeds


def test_negatives_are_written_where_asked() -> None:
    values, out = torch.tensor([1, 0], dtype=torch.int8), torch.tensor([7, 7], dtype=torch.int8)
    negate(values, out)
    assert out.tolist() == [-1, 0]
    assert values.tolist() == [1, 0]
