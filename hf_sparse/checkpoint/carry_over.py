"""Files that are copied from a model to a directory made from it: all but its weights."""

import shutil
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.utils import CONFIG_NAME

from hf_sparse.atomic.files import leaves
from hf_sparse.checkpoint.companions import TOKENIZER
from hf_sparse.checkpoint.saved_files import module_folders

# Weights in any format, and pickles.
_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.*",
    "*.bin",
    "*.index.json",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx.data",
    "*.onnx_data",
    "*.gguf",
    "*.tflite",
    "*.mlmodel",
    "*.npz",
    "*.pkl",
    "*.pickle",
    "openvino_*",
)
# Files about one set of weights: measurements of them, and records of the run that made them.
_OF_THAT_MODEL = (
    CONFIG_NAME,
    "README.md",
    "trainer_state.json",
    "hf_sparse_*",
    "*results*.json",
    "*results*.csv",
    "latency*.json",
)
_FOLDERS_OF_THAT_MODEL = ("checkpoint-*", "runs", "eval", "pictures")
_HIDDEN = (".*", "_*")


def carried(name_or_path: str, tokenizer: bool = True, **hub: Any) -> dict[str, Path]:
    """Return the files that stay with a model whatever is done to its weights, by their relative paths.

    These are tokenizer, processor, chat templates, licenses, files that somebody added, and the modules of
    sentence-transformers with their own weights. Left out are weights in any format, files of a run
    (checkpoints, optimizers, records), and the card and results, which are about the old weights. With
    `tokenizer=False`, for a model that gets another tokenizer, its files are left out, too.

    `name_or_path` is a directory or a Hub name, `hub` as in `saved_file`. Raises `ValueError` for a link that
    leads out of the directory and for modules outside of it.
    """
    modules = module_folders(name_or_path, **hub)
    if not Path(name_or_path).is_dir():
        home = Path(snapshot_download(name_or_path, ignore_patterns=[*_WEIGHTS, ".*"], **hub))
        if modules:
            snapshot_download(name_or_path, allow_patterns=[f"{folder}/*" for folder in modules], **hub)
    else:
        home = Path(name_or_path)
    found = {path.relative_to(home).as_posix(): path for path in _files(home, modules)}
    if not tokenizer:
        found = {name: path for name, path in found.items() if not _any(name, TOKENIZER)}
    for path in found.values():
        _require_inside(path, home)
    return found


def module_files(directory: Path) -> dict[str, Path]:
    """Return the files in the folders of modules of sentence-transformers, as `carried` does."""
    folders = [f"{folder}/" for folder in module_folders(str(directory))]
    files = carried(str(directory)) if folders else {}
    return {name: path for name, path in files.items() if name.startswith(tuple(folders))}


def carry(files: Mapping[str, Path], directory: Path) -> None:
    """Copy files, by their relative paths, into a directory; a file that exists there stays."""
    for name, path in files.items():
        if not (target := directory / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _files(home: Path, modules: list[str]) -> Iterator[Path]:
    for entry in sorted(home.iterdir()):
        name = entry.name
        if entry.is_file():
            if not _any(name, (*_WEIGHTS, *_OF_THAT_MODEL, *_HIDDEN)):
                yield entry
        elif any(folder == name or folder.startswith(f"{name}/") for folder in modules):
            yield from (path for path in sorted(entry.rglob("*")) if path.is_file() and path.name[0] != ".")
        elif entry.is_dir() and not _any(name, (*_FOLDERS_OF_THAT_MODEL, *_HIDDEN)):
            held = [path for path in sorted(entry.rglob("*")) if path.is_file()]
            # A folder with weights is another model, or this one in another format.
            if not any(_any(path.name, _WEIGHTS) for path in held):
                yield from (path for path in held if not _any(path.name, (*_OF_THAT_MODEL[1:], *_HIDDEN)))


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _require_inside(path: Path, home: Path) -> None:
    """Raise `ValueError` for a link that leads out of a directory, except into the Hub's cache around it."""
    if leaves(path, home):
        raise ValueError(
            f"{path} is a link to {path.resolve()}, outside of {home}, whose content would be copied; put "
            "the file itself there, or delete the link"
        )
