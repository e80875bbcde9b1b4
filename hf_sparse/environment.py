"""The machine and the software versions that something is measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import hf_sparse
from hf_sparse.native.features import processor_features

# In the order of preference: tiles multiply several times as fast as vectors.
_BF16_FEATURES = ("amx_bf16", "avx512_bf16")
# Which of these a processor has decides how fast any engine runs in 8 bits.
_INT8_FEATURES = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "asimddp")
_SIZE, _TIMES = 512, 5
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def hardware() -> dict[str, Any]:
    """Return processor, instructions, cores of this process, threads of torch, system, any accelerator.

    `instructions` are those that multiply 8-bit integers, the fastest first, as Linux names them.
    """
    found: dict[str, Any] = {
        "processor": _processor(),
        "instructions": " ".join(name for name in _INT8_FEATURES if name in processor_features()),
        "cores": _cores(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python, this package, the packages that training depends on, and `more`."""
    found = {"python": platform.python_version(), "hf_sparse": hf_sparse.__version__}
    return found | {name: number for name in (*_PACKAGES, *more) if (number := _version(name)) is not None}


def bf16_hardware(accelerator: bool = True) -> str | None:
    """Return the name of the hardware that multiplies bfloat16 here, or None.

    It is the name of the GPU if there is one and `accelerator` is True, else `amx_bf16` or `avx512_bf16`, the
    instruction sets of a processor as Linux names them.
    """
    if accelerator and torch.cuda.is_available():
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name() if supported else None
    if accelerator and torch.accelerator.is_available():
        # Other accelerators do not report it, and the processor does not do the computing.
        return None
    return next((name for name in _BF16_FEATURES if name in processor_features()), None)


def bf16_speedup() -> float:
    """Return how many times as fast the processor multiplies matrices in bfloat16 as in float32.

    It is the ratio of the median times of five products of 512 x 512, which take some milliseconds.
    """
    operands = {dtype: torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = {dtype: _seconds(matrix) for dtype, matrix in operands.items()}
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _seconds(matrix: torch.Tensor) -> float:
    """Return the median time of the product of a matrix with itself, after one to warm up."""
    torch.matmul(matrix, matrix)
    taken = []
    for _ in range(_TIMES):
        start = perf_counter()
        torch.matmul(matrix, matrix)
        taken.append(perf_counter() - start)
    return median(taken)
