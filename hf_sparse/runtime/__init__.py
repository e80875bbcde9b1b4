"""Run sparse 8-bit models fast on a CPU: `optimize`, `fuse`, `load`."""

from importlib import import_module

_HOMES = {
    "fuse": "hf_sparse.runtime.fusion",
    "load": "hf_sparse.runtime.from_disk",
    "optimize": "hf_sparse.runtime.optimization",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """Import a function when it is first used: `import hf_sparse.runtime` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_sparse.runtime' has no attribute {name!r}; it offers {__all__}")
    return getattr(import_module(_HOMES[name]), name)
