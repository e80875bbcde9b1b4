"""The machine and the software that something was measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import hf_sparse

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def hardware() -> dict[str, Any]:
    """Describe the machine: processor, cores of this process, threads of torch, accelerator if any."""
    found = {
        "processor": _processor(),
        "cores": _cores(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def versions(*more: str) -> dict[str, str]:
    """Name the versions of Python, of this package, of the packages that training depends on, and of more."""
    found = {"python": platform.python_version(), "hf_sparse": hf_sparse.__version__}
    return found | {name: number for name in (*_PACKAGES, *more) if (number := _version(name)) is not None}


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
