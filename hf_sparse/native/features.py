"""The architecture and the instruction sets of this processor."""

import platform
from functools import cache
from pathlib import Path

_PROCESSOR = Path("/proc/cpuinfo")


def machine() -> str:
    """Return the architecture as Linux names it, such as x86_64 or aarch64."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def processor_features() -> frozenset[str]:
    """Return the instruction sets as Linux names them; an empty set on systems that do not list them."""
    # macOS lacks /proc/cpuinfo; all of Apple's own processors have dot products.
    found = {"asimddp"} if platform.system() == "Darwin" and machine() == "aarch64" else set()
    for line in _lines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found.update(value.split())
    return frozenset(found)


def _lines() -> list[str]:
    try:
        return _PROCESSOR.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
