"""Register the packed format with transformers and the adapters with peft, in any order of imports."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

# The module of this package that registers something, by the host module that it registers with.
_REGISTERING = {
    "transformers.quantizers.auto": "hf_sparse.checkpoint.packed.hf_quantizer",
    "peft": "hf_sparse.adapters.register",
}


def register() -> None:
    """Import each registering module now if its host is imported, else right after its host."""
    waiting = {finder.host for finder in sys.meta_path if isinstance(finder, _AfterHost)}
    for host, registering in _REGISTERING.items():
        if sys.modules.get(host) is not None:
            import_module(registering)
        elif host not in waiting:
            sys.meta_path.insert(0, _AfterHost(host))


class _AfterHost(MetaPathFinder):
    """Finds one host module as Python does, once, and imports the registering module behind it.

    Importing transformers at once would add seconds to `import hf_sparse`.
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
            # Stay for another import: this one may fail, or only look for the module.
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            vars(spec.loader)["exec_module"] = self._followed(spec.loader.exec_module)
        return spec

    def _followed(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def execute_both(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            import_module(_REGISTERING[self.host])

        return execute_both
