"""Tells transformers of the packed format and peft of our adapters, whichever package is imported first."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

# Which module of ours registers with which module of others.
_OURS = {
    "transformers.quantizers.auto": "hf_sparse.checkpoint.quantizer",
    "peft": "hf_sparse.adapters.registering",
}


def register() -> None:
    """Import what registers something now, or right after the module it registers with."""
    waiting = {finder.host for finder in sys.meta_path if isinstance(finder, _AfterHost)}
    for host, ours in _OURS.items():
        if sys.modules.get(host) is not None:
            import_module(ours)
        elif host not in waiting:
            sys.meta_path.insert(0, _AfterHost(host))


class _AfterHost(MetaPathFinder):
    """Finds one module, once, as Python does, and has ours imported behind it.

    Importing transformers here instead would cost seconds wherever hf_sparse alone is wanted.
    """

    def __init__(self, host: str) -> None:
        self.host = host

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.host:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            # To be there for another import, where this one fails or only looks.
            sys.meta_path.insert(0, self)
        if spec is not None:
            spec.loader.exec_module = self._followed(spec.loader.exec_module)
        return spec

    def _followed(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def execute_both(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            import_module(_OURS[self.host])

        return execute_both
