"""Whole-tensor numpy work on several threads."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_NAME = "hf_sparse-map"


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map over items on as many threads as torch uses, for functions that leave Python to numpy.

    Within a function that is being mapped it works serially: threads waiting for each other would never end.
    """
    items, threads = list(items), torch.get_num_threads()
    if threads == 1 or len(items) < 2 or threading.current_thread().name.startswith(_NAME):
        return [function(item) for item in items]
    # One task a thread: handing over each item would cost more than small items take.
    groups = [items[first::threads] for first in range(threads)]
    mapped = _pool(threads, os.getpid()).map(lambda group: [function(item) for item in group], groups)
    results: list[Result | None] = [None] * len(items)
    for first, group in enumerate(mapped):
        results[first::threads] = group
    return results


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by process as well: threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix=_NAME)
