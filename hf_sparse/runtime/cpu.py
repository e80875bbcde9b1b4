"""The paths of the kernels: one for each set of instructions, the best first, and those that run here.

"How to add" in docs/design.md lists what a path consists of; tests/runtime/test_paths.py compares the places.
"""

import os
from dataclasses import dataclass

from hf_sparse.native.features import machine, processor_features

# The environment variable that names the path to use in place of the best one.
SWITCH = "HF_SPARSE_RUNTIME_PATH"


@dataclass(frozen=True)
class ProcessorPath:
    """One way to compile the kernels, and the instruction sets that a processor needs to run it."""

    name: str
    machine: str | None
    features: tuple[str, ...]
    flags: tuple[str, ...]


_X86 = "x86_64"
PATHS = (
    ProcessorPath(
        "avx512_vnni",
        _X86,
        ("avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
        ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-DHF_SPARSE_AVX512_VNNI"),
    ),
    ProcessorPath(
        "avx_vnni",
        _X86,
        ("avx2", "fma", "avx_vnni"),
        ("-mavx2", "-mfma", "-mavxvnni", "-DHF_SPARSE_AVX_VNNI"),
    ),
    ProcessorPath("avx2", _X86, ("avx2", "fma"), ("-mavx2", "-mfma", "-DHF_SPARSE_AVX2")),
    ProcessorPath("neon", "aarch64", ("asimddp",), ("-march=armv8.2-a+dotprod", "-DHF_SPARSE_NEON")),
    ProcessorPath("portable", None, (), ()),
)


def machine_paths() -> tuple[ProcessorPath, ...]:
    """Return the paths that some processor of this architecture can run, the fastest first."""
    return tuple(path for path in PATHS if path.machine in (None, machine()))


def available_paths() -> tuple[str, ...]:
    """Return the names of the paths that this processor can run, the fastest first."""
    features = processor_features()
    return tuple(path.name for path in machine_paths() if features.issuperset(path.features))


def chosen_paths(name: str | None = None) -> list[ProcessorPath]:
    """Return the named path, or the one in HF_SPARSE_RUNTIME_PATH, or all that run here, the best first.

    Raises `ValueError` if the processor cannot run the named path.
    """
    available, name = available_paths(), name or os.environ.get(SWITCH)
    if name and name not in available:
        raise ValueError(
            f"{name} ({SWITCH}) is none of the paths that this processor runs; choose one of "
            f"{', '.join(available)}"
        )
    return [path for path in PATHS if path.name == name or (not name and path.name in available)]
