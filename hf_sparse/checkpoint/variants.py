"""Weights that were saved as a variant, such as model.fp16.safetensors, under the names of plain ones."""

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
# Written by libraries, from tensors, and large: nobody's notes are in them.
TENSOR_FILES = (".safetensors", ".bin", ".pt", ".pth")
# Folders of Trainer and its logs, which may be large.
_OF_RUNS = ("checkpoint-", "runs", "wandb", ".", "_")
_VARIANT = re.compile(r"[\w-]+")
# What of a model on the Hub is not its weights.
_OTHERS = ("*.json", "*.txt", "*.model", "*.jinja", "hf_sparse_state.safetensors")


@contextmanager
def with_variant(name_or_path: str, variant: str) -> Iterator[str]:
    """Give a temporary directory with a saved model, where the weights of a variant have plain names.

    Whatever loads a model finds them there. They are links, whatever else belongs to the model is copied.
    Raises `ValueError` where there is no such variant.
    """
    if not _VARIANT.fullmatch(variant):
        raise ValueError(f"{variant!r} is no variant; one is a word such as fp16, in model.fp16.safetensors")
    source = Path(name_or_path)
    if not source.is_dir():
        patterns = [*_OTHERS, f"*.{variant}.*", f"*.{variant}-*"]
        source = Path(snapshot_download(name_or_path, allow_patterns=patterns))
    renamed = {_with(variant, name): name for name in _WEIGHTS}
    if not any((source / name).is_file() for name in renamed):
        raise ValueError(
            f"{name_or_path} has no {_with(variant, SAFE_WEIGHTS_NAME)}; name the variant that it was saved "
            "with, or leave --variant out"
        )
    with tempfile.TemporaryDirectory(prefix="hf_sparse_variant_") as home:
        # Under its own name, which is shown.
        view = Path(home) / source.resolve().name
        view.mkdir()
        for path in source.resolve().iterdir():
            target = view / renamed.get(path.name, path.name)
            if path.suffix in TENSOR_FILES:
                # The plain weights are others, which would be loaded first.
                if path.name not in _WEIGHTS:
                    os.symlink(path, target)
            elif leaves(path, source):
                # To be refused where it would be taken over.
                os.symlink(path.resolve(), target)
            elif path.is_dir():
                if not path.name.startswith(_OF_RUNS):
                    shutil.copytree(path, target, symlinks=True)
            elif path.name not in _WEIGHTS:
                shutil.copyfile(path, target)
        yield str(view)


def _with(variant: str, name: str) -> str:
    """Return how transformers calls a file of weights of a variant."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.{variant}.{ending}"
