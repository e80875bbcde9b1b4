"""The names of files that belong to a model beside its weights."""

import filecmp
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType

# Files that tokenizers save.
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
# Files beside the weights: configuration, card, processor, tokenizer.
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
# Copied with a model. No library writes them, so a directory that holds one is not replaced.
_TERMS = tuple(
    f"{name}{ending}" for name in ("LICENSE", "LICENCE", "NOTICE") for ending in ("", ".txt", ".md", ".rst")
)


def holds_only(directory: Path, *own: str, carried: Mapping[str, Path] = MappingProxyType({})) -> bool:
    """Return whether a directory holds nothing but files of these names and their companions.

    `*` in a name matches anything. Copies of the files in `carried`, under the same paths, may be there too.
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
    """Return the files of a directory that belong to a model, terms of use included, without its weights."""
    return sorted(
        entry
        for entry in directory.iterdir()
        if entry.is_file() and any(fnmatchcase(entry.name, name) for name in (*_COMPANIONS, *_TERMS))
    )
