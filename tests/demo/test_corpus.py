"""Text from Python's standard library."""

import sys
from pathlib import Path

import pytest

from hf_sparse.demo.corpus import (
    SECTIONS,
    Docstring,
    library_docstrings,
    library_sections,
    library_texts,
    library_topics,
    section_of,
)

SOURCE = '''"""Split text into words and symbols."""
raise SystemExit("imported")
class Splitter:
    """Read one line
    after the other."""
    def next(self):
        """Too short here."""
async def read():
    """SPLIT text, into words and symbols!"""
'''


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name in ("re/__init__.py", "test/test_re.py", "site-packages/re.py", "shlex.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SOURCE if name != "shlex.py" else '"""Not { a template """ %{')
    return tmp_path


@pytest.fixture(scope="module")
def docstrings() -> list[Docstring]:
    return library_docstrings()


def test_docstrings_are_read_without_importing_once_each_on_one_line(library: Path) -> None:
    assert library_docstrings(library) == [
        Docstring("re", "Split text into words and symbols."),
        Docstring("re", "Read one line after the other."),
    ]


def test_a_python_without_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no Python source .* give your own"):
        library_docstrings(tmp_path)


def test_case_and_punctuation_and_the_end_of_a_long_text_do_not_tell_docstrings_apart() -> None:
    long = "word " * 40
    assert Docstring("a", long + "one end").key == Docstring("b", long.upper() + "- another end").key
    assert Docstring("a", "Return one item.").key != Docstring("a", "Return one thing.").key


def test_this_python_has_enough_text_in_every_section(docstrings: list[Docstring]) -> None:
    train = library_sections(docstrings)["train"]
    names = train.features["label"].names
    assert set(names) >= set(SECTIONS) - {"graphical interfaces"}
    assert min(train["label"][:].count(number) for number in range(len(names))) > 100


def test_nothing_held_out_is_learned_from(docstrings: list[Docstring]) -> None:
    task, texts = library_sections(docstrings), library_texts(docstrings)
    learned = {Docstring("", text).key for text in task["train"]["text"][:] + texts["train"]["text"][:]}
    held_out = [Docstring("", text).key for text in task["validation"]["text"][:]]
    assert learned.isdisjoint(held_out)
    assert len(held_out) == len(set(held_out)) == pytest.approx(0.15 * len(docstrings), rel=0.2)


def test_reading_the_library_imports_none_of_it(docstrings: list[Docstring]) -> None:
    assert {"turtle", "antigravity", "this"}.isdisjoint(sys.modules)


def test_topics_explain_the_language() -> None:
    assert any("with" in topic and "context manager" in topic for topic in library_topics())


@pytest.mark.parametrize(
    ("module", "section"),
    [
        ("re", "text"),
        ("email.mime.text", "mail and markup"),
        ("concurrent.futures.thread", "concurrency"),
        ("string", "text"),
        ("string.templatelib", "language"),
        ("antigravity", None),
    ],
)
def test_a_package_stands_for_its_modules_unless_one_is_listed(module: str, section: str | None) -> None:
    assert section_of(module) == section


def test_no_module_is_listed_twice() -> None:
    modules = [module for listed in SECTIONS.values() for module in listed.split()]
    assert sorted(modules) == sorted(set(modules))
