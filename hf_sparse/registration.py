"""Tells transformers about the packed format once both packages are imported, whichever comes first."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_HOST = "transformers.quantizers.auto"
_OURS = "hf_sparse.checkpoint.quantizer"


def register() -> None:
    """Import what registers the format now, or right after the module it registers with."""
    if _HOST in sys.modules:
        import_module(_OURS)
    elif not any(isinstance(finder, _AfterHost) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterHost())


class _AfterHost(MetaPathFinder):
    """Finds one module, once, as Python does, and has ours imported behind it.

    Importing transformers here instead would cost seconds wherever hf_sparse alone is wanted.
    """

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _HOST:
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
            import_module(_OURS)

        return execute_both
