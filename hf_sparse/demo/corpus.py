"""The English text that comes with Python itself: documentation topics, docstrings of the library."""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_sparse.demo.sections import SECTIONS, section_of

# Not part of what the Library Reference describes, or not part of the library at all.
_SKIPPED = re.compile(
    r"__pycache__|_?tests?|site-packages|dist-packages|lib-dynload|config-.*|idlelib|lib2to3|turtledemo|pydoc_data|__\w*hello__.*"
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_VALIDATION_PERCENT = 15
# Docstrings that begin with the same words count as one: what a model reads of them is the same.
_KEY_WORDS = 40
_FEWEST_WORDS = 4


@dataclass(frozen=True)
class Docstring:
    """A docstring on one line, with the name of the module it stands in."""

    module: str
    text: str

    @property
    def key(self) -> str:
        """What docstrings that say the same have in common: the first words, without case or punctuation."""
        return " ".join(re.findall(r"[a-z]+", self.text.lower())[:_KEY_WORDS])

    @property
    def held_out(self) -> bool:
        """Say whether it belongs to the validation split, by its own words alone."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4]) % 100 < _VALIDATION_PERCENT


def library_docstrings(library: Path | None = None) -> list[Docstring]:
    """Read the docstrings of the standard library from its source, in the order of its files.

    Nothing is imported. Those under four words, and those that say again what an earlier one said, are left
    out. Raises `FileNotFoundError` if this Python has no source files.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    first: dict[str, Docstring] = {}
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        parts = path.relative_to(library).with_suffix("").parts
        if not any(_SKIPPED.fullmatch(part) for part in parts):
            for docstring in _read(path, ".".join(parts).removesuffix(".__init__")):
                first.setdefault(docstring.key, docstring)
    found = [docstring for key, docstring in first.items() if key.count(" ") + 1 >= _FEWEST_WORDS]
    if not found:
        raise FileNotFoundError(
            f"{library} holds no Python source to take text from; give your own with --dataset-name, --text"
        )
    return found


def _read(path: Path, module: str) -> Iterator[Docstring]:
    # Some files of the library are not meant to be compiled, such as templates.
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield Docstring(module, " ".join(text.split()))


def library_topics() -> list[str]:
    """Return the topics of `help()` in alphabetical order, each on one line."""
    from pydoc_data.topics import topics

    return [" ".join(topics[name].split()) for name in sorted(topics)]


def library_texts(docstrings: Sequence[Docstring]) -> DatasetDict:
    """Make the `text` to learn the language from: topics, docstrings; for validation only docstrings."""
    kept = [docstring.text for docstring in docstrings if not docstring.held_out]
    held_out = [docstring.text for docstring in docstrings if docstring.held_out]
    return DatasetDict(
        train=Dataset.from_dict({"text": library_topics() + kept}),
        validation=Dataset.from_dict({"text": held_out}),
    )


def library_sections(docstrings: Sequence[Docstring]) -> DatasetDict:
    """Make the task: which section of the library a docstring (`text`) comes from (`label`)."""
    labelled = [(docstring, section_of(docstring.module)) for docstring in docstrings]
    present = {section for _, section in labelled}
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=[name for name in SECTIONS if name in present])}
    )

    def rows(held_out: bool) -> Dataset:
        chosen = [
            (docstring.text, section)
            for docstring, section in labelled
            if section is not None and docstring.held_out is held_out
        ]
        columns = {"text": [text for text, _ in chosen], "label": [section for _, section in chosen]}
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(train=rows(held_out=False), validation=rows(held_out=True))
