"""Sparse, distilled, 8-bit training of transformers inside the Hugging Face Trainer."""

from importlib import import_module

from hf_sparse.register import register as _register

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "hf_sparse.recipe.recipe",
    "SparseArguments": "hf_sparse.training.arguments",
    "SparseLoraConfig": "hf_sparse.adapters.lora",
    "SparseSeq2SeqTrainer": "hf_sparse.training.trainer",
    "SparseTrainer": "hf_sparse.training.trainer",
    "SparseTrainerMixin": "hf_sparse.training.trainer",
    "SparsityCallback": "hf_sparse.training.callback",
    "TeacherCache": "hf_sparse.distillation.teacher_cache",
    "find_targets": "hf_sparse.targets",
    "load_model": "hf_sparse.checkpoint.load",
    "load_packed": "hf_sparse.checkpoint.packed.model",
    "load_teacher": "hf_sparse.distillation.teacher",
    "measure_sparsity": "hf_sparse.sparsity.measure",
    "merge_adapter": "hf_sparse.adapters.merge",
    "prune": "hf_sparse.oneshot.prune",
    "prune_with_data": "hf_sparse.oneshot.prune_with_data",
    "save_compressed": "hf_sparse.checkpoint.compressed_tensors",
    "save_packed": "hf_sparse.checkpoint.packed.model",
    "shrink": "hf_sparse.sparsity.structured.shrink",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import hf_sparse` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_sparse' has no attribute {name!r}; it offers {sorted(_HOMES)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


_register()
