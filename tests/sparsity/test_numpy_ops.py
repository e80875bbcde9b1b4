"""Counts over tensors of every type; work on several threads."""

import math
import threading
from collections.abc import Iterator

import pytest
import torch

from hf_sparse.sparsity.numpy_ops import any_greater, count_nonzero, nonzero, parallel_map

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
def test_one_number_that_exceeds_its_neighbor_is_enough(one: list, other: list, exceeds: bool) -> None:
    assert any_greater(torch.tensor(one).to(torch.uint8), torch.tensor(other).to(torch.uint8)) is exceeds


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    assert parallel_map(lambda item: item * item, range(20)) == [item * item for item in range(20)]


@pytest.mark.parametrize("items", [[], [7]])
def test_few_items_are_fine(threads: int, items: list[int]) -> None:
    assert parallel_map(str, iter(items)) == [str(item) for item in items]


def test_as_many_threads_as_torch_uses(threads: int) -> None:
    # Every item waits for the others: fewer threads than that would break the barrier.
    barrier = threading.Barrier(threads, timeout=10)
    assert (
        len(set(parallel_map(lambda _: (barrier.wait(), threading.get_ident())[1], range(threads))))
        == threads
    )


def test_a_map_within_a_map_ends(threads: int) -> None:
    table = parallel_map(lambda row: parallel_map(lambda column: row * column, range(5)), range(5))
    assert table == [[row * column for column in range(5)] for row in range(5)]


def test_an_error_reaches_the_caller(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda item: 1 // item, [1, 0, 2])
