"""Work on several threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from hf_sparse.sparsity.numpy_ops import parallel_map


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
