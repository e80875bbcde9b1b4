"""Whether bfloat16 pays on this machine."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from hf_sparse.native.features import processor_features

# In the order of preference: tiles multiply several times as fast as vectors.
_PROCESSOR_FEATURES = ("amx_bf16", "avx512_bf16")
_SIZE, _TIMES = 512, 5


def bf16_hardware(accelerator: bool = True) -> str | None:
    """Return what multiplies bfloat16 in hardware here, None where nothing does.

    The name of the GPU, where there is one and an `accelerator` may be used; else `amx_bf16` or
    `avx512_bf16`, as Linux calls the instructions of a processor.
    """
    if accelerator and torch.cuda.is_available():
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name() if supported else None
    if accelerator and torch.accelerator.is_available():
        # Of other accelerators nothing is known here, and the processor does not compute then.
        return None
    return next((name for name in _PROCESSOR_FEATURES if name in processor_features()), None)


def bf16_speedup() -> float:
    """Measure on the processor how many times as fast a product of matrices is in bfloat16 as in float32.

    The ratio of medians of a few products of 512 x 512, which take some milliseconds.
    """
    operands = {dtype: torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = {dtype: _seconds(lambda matrix=matrix: matrix @ matrix) for dtype, matrix in operands.items()}
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _seconds(function: Callable[[], object]) -> float:
    function()
    taken = []
    for _ in range(_TIMES):
        start = perf_counter()
        function()
        taken.append(perf_counter() - start)
    return median(taken)
