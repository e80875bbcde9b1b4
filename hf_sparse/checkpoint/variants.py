"""Models saved with weights as a variant, such as model.fp16.safetensors, shown with plain names."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from hf_sparse.atomic.files import leaves

_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
# Large files of tensors, which are linked and not copied.
TENSOR_FILES = (".safetensors", ".bin", ".pt", ".pth")
# Prefixes of folders of a run, which may be large.
_OF_RUNS = ("checkpoint-", "runs", "wandb", ".", "_")
_VARIANT = re.compile(r"[\w-]+")
# The other files of a model on the Hub.
_OTHERS = ("*.json", "*.txt", "*.model", "*.jinja", "hf_sparse_state.safetensors")


@contextmanager
def with_variant(name_or_path: str, variant: str) -> Iterator[str]:
    """Yield a temporary directory with a saved model, in which the weights of a variant have plain names.

    Weights are links, other files of the model are copies. Raises `ValueError` if the variant is missing.
    """
    if not _VARIANT.fullmatch(variant):
        raise ValueError(f"{variant!r} is not a variant; name a word such as fp16, of model.fp16.safetensors")
    source = Path(name_or_path)
    if not source.is_dir():
        patterns = [*_OTHERS, f"*.{variant}.*", f"*.{variant}-*"]
        source = Path(snapshot_download(name_or_path, allow_patterns=patterns))
    renamed = {_with(variant, name): name for name in _WEIGHTS}
    if not any((source / name).is_file() for name in renamed):
        raise ValueError(
            f"{name_or_path} lacks {_with(variant, SAFE_WEIGHTS_NAME)}; name the variant that it was saved "
            "with, or leave --variant out"
        )
    with tempfile.TemporaryDirectory(prefix="hf_sparse_variant_") as home:
        # Under the name of the model, which is shown to users.
        view = Path(home) / source.resolve().name
        view.mkdir()
        for path in source.resolve().iterdir():
            target = view / renamed.get(path.name, path.name)
            if path.suffix in TENSOR_FILES:
                # The plain weights are another variant, which would be loaded first.
                if path.name not in _WEIGHTS:
                    os.symlink(path, target)
            elif leaves(path, source):
                # The copy of the model refuses such a link.
                os.symlink(path.resolve(), target)
            elif path.is_dir():
                if not path.name.startswith(_OF_RUNS):
                    shutil.copytree(path, target, symlinks=True)
            elif path.name not in _WEIGHTS:
                shutil.copyfile(path, target)
        yield str(view)


def _with(variant: str, name: str) -> str:
    """Return the name that transformers gives a file of weights of a variant."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{variant}.{ending}"
