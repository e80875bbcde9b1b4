"""How paths of other processors are compiled and run here."""

from dataclasses import dataclass

from hf_sparse.native import build as building
from hf_sparse.runtime.cpu import PATHS


@dataclass(frozen=True)
class Emulation:
    """How a path is compiled and run here."""

    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    runner: tuple[str, ...] = ()
    needs: str | None = None


def flags_of(name: str, start: str = "-") -> tuple[str, ...]:
    return tuple(flag for path in PATHS if path.name == name for flag in path.flags if flag.startswith(start))


def by_simde(name: str) -> Emulation:
    # Optimized, the emulation takes most of a minute to compile.
    flags = (*flags_of(name, "-D"), "-DHF_SPARSE_EMULATED", "-O0")
    return Emulation(building.COMPILERS, flags, needs="simde/x86/avx512.h")


EMULATIONS = {
    "avx512_vnni": by_simde("avx512_vnni"),
    "avx_vnni": by_simde("avx_vnni"),
    "neon": Emulation(
        ("aarch64-linux-gnu-g++",),
        flags_of("neon"),
        ("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"),
    ),
    "portable": Emulation(building.COMPILERS, ("-O1",)),
}
