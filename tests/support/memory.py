"""The most memory that a call takes, counted in allocations of numpy and torch."""

import tracemalloc
from collections.abc import Callable

import torch


def most_extra_bytes(call: Callable[[], object]) -> int:
    """Return the sum of the peaks of numpy's (and Python's) and of torch's allocations on the CPU."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with profiler:
        tracemalloc.start()
        try:
            call()
            _, numpy_peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return numpy_peak + peak
