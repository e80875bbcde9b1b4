"""Directories for others to load, which are there whole or not at all."""

import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

from hf_sparse.storage import sync, sync_all

# What tokenizers save.
TOKENIZER = (
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab-src.json",
    "vocab-tgt.json",
    "target_vocab.json",
    "entity_vocab.json",
    "merges.txt",
    "bpe.codes",
    "normalizer.json",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "spm_char.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
)
# What lies beside a model's own files: configuration, card, processor, tokenizer.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "README.md",
    "*processor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    *TOKENIZER,
)
# Handed on with a model, but not written by any library, so never to be replaced.
_TERMS = tuple(
    f"{name}{ending}" for name in ("LICENSE", "LICENCE", "NOTICE") for ending in ("", ".txt", ".md", ".rst")
)


def holds_only(directory: Path, *own: str, carried: Mapping[str, Path] = MappingProxyType({})) -> bool:
    """Say whether a directory holds files of these names, `*` standing for anything, and their companions.

    With any other file or folder in it, it holds more, unless that is a copy of what `carried` has under the
    same path.
    """

    def known(entry: Path) -> bool:
        name = entry.relative_to(directory).as_posix()
        if entry.is_dir():
            return any(path.startswith(f"{name}/") for path in carried)
        if entry.parent == directory and any(fnmatchcase(name, each) for each in (*own, *_COMPANIONS)):
            return True
        return name in carried and filecmp.cmp(entry, carried[name], shallow=False)

    return all(known(entry) for entry in directory.rglob("*"))


def companions(directory: Path) -> list[Path]:
    """Return the files of a directory that belong to a model and hold no weights, terms of use among them."""
    return sorted(
        entry
        for entry in directory.iterdir()
        if entry.is_file() and any(fnmatchcase(entry.name, name) for name in (*_COMPANIONS, *_TERMS))
    )


def require_free(directory: Path, is_ours: Callable[[Path], bool] | None = None) -> None:
    """Raise `ValueError` if a directory is there already, neither empty nor recognized by `is_ours`.

    Without `is_ours` nothing is recognized.
    """
    if not directory.is_file() and not (directory.is_dir() and any(directory.iterdir())):
        return
    if is_ours is None:
        raise ValueError(
            f"{directory} is not empty, and what it holds is not replaced; choose another directory, or "
            "delete this one"
        )
    if directory.is_file() or not is_ours(directory):
        raise ValueError(
            f"{directory} holds something else, which would be lost; choose a directory that is new or empty"
        )


@contextmanager
def moved_into(directory: Path) -> Iterator[Path]:
    """Give an empty directory to fill, whose files move into `directory` once the block has ended.

    Where the block fails nothing has changed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".staged-") as home:
        yield Path(home)
        for file in sorted(Path(home).iterdir()):
            sync(file)
            os.replace(file, directory / file.name)
        sync(directory)


@contextmanager
def published(directory: Path, is_ours: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Give an empty directory to fill, which takes the place of `directory` once the block has ended.

    Where the block fails nothing has changed. Raises as `require_free` does.
    """
    directory = directory.resolve()
    require_free(directory, is_ours)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as home:
        staged = Path(home) / "new"
        staged.mkdir()
        yield staged
        sync_all(staged)
        replaced = Path(home) / "old"
        if directory.exists():
            os.rename(directory, replaced)
        try:
            os.rename(staged, directory)
        except OSError:
            if replaced.exists():
                os.rename(replaced, directory)
            raise
        sync(directory.parent)
        shutil.rmtree(replaced, ignore_errors=True)
