"""Models from and for the Hub: `load_legacy`, `push`, `write_card` with `CardOptions`."""

from importlib import import_module

from hf_sparse.renamed import renamed_module

renamed_module(
    "hf_sparse.hub.pushing",
    {name: f"hf_sparse.hub.upload.{name}" for name in ("Pushed", "push", "push_in_background")},
)
_HOMES = {
    "CardOptions": "hf_sparse.hub.card.options",
    "load_legacy": "hf_sparse.hub.legacy.load",
    "push": "hf_sparse.hub.upload",
    "write_card": "hf_sparse.hub.card.write",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """Import a function when it is first used: `import hf_sparse.hub` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_sparse.hub' has no attribute {name!r}; it offers {__all__}")
    return getattr(import_module(_HOMES[name]), name)
