"""Operations on large tensors that numpy does faster than torch on a CPU, on several threads.

Torch's comparisons with a constant and its reductions of booleans take 20 times longer there. On other
devices torch does them.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

_NAME = "hf_sparse-map"


def count_nonzero(values: Tensor) -> int:
    """Count the entries that are not zero."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return int(np.count_nonzero(values.detach().numpy()))
    return int(torch.count_nonzero(values))


def nonzero(values: Tensor) -> Tensor:
    """Return as booleans which entries are not zero."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return torch.from_numpy(values.detach().numpy() != 0)
    return values != 0


def any_greater(one: Tensor, other: Tensor) -> bool:
    """Return whether any number exceeds the one at its place in the other tensor."""
    if one.device.type == "cpu":
        return bool(np.greater(one.numpy(), other.numpy()).any())
    return bool((one > other).any())


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], most: int | None = None
) -> list[Result]:
    """Map a function over items on as many threads as torch uses; numpy releases Python's lock meanwhile.

    `most` is how many threads work at most, where each of them needs much memory.
    Inside a function that is being mapped the work is serial: threads would wait for each other for ever.
    """
    items, threads = list(items), min(torch.get_num_threads(), most or torch.get_num_threads())
    if threads == 1 or len(items) < 2 or threading.current_thread().name.startswith(_NAME):
        return [function(item) for item in items]
    # One task a thread: handing over each item would cost more than small items take.
    groups = [items[first::threads] for first in range(threads)]
    pool = _pool(torch.get_num_threads(), os.getpid())
    mapped = list(pool.map(lambda group: [function(item) for item in group], groups))
    return [mapped[index % threads][index // threads] for index in range(len(items))]


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by process as well: threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix=_NAME)
