"""English text that comes with Python: the topics of `help()` and the docstrings of its standard library."""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

# Folders that the Library Reference does not describe.
_SKIPPED = re.compile(
    r"__pycache__|_?tests?|site-packages|dist-packages|lib-dynload|config-.*|idlelib|lib2to3|turtledemo|pydoc_data|__\w*hello__.*"
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_VALIDATION_PERCENT = 15
# Docstrings that begin with the same words count as one, since models read only the beginning.
_KEY_WORDS = 40
_FEWEST_WORDS = 4
# After the chapters of the Python Library Reference, with small chapters joined to their neighbors. A
# package stands for all its modules, unless one of them is listed as well.
SECTIONS: dict[str, str] = {
    "text": """
        _strptime codecs difflib encodings gettext html locale pprint re reprlib sre_compile
        sre_constants sre_parse string stringprep textwrap uuid shlex base64 binhex quopri uu
    """,
    "data types": """
        _collections_abc _py_abc _pydatetime _weakrefset abc array bisect calendar collections copy
        copyreg dataclasses datetime enum graphlib heapq numbers queue types weakref zoneinfo
    """,
    "mathematics": """
        _pydecimal cmath colorsys decimal fractions functools hashlib hmac operator random secrets
        statistics
    """,
    "files": """
        _bootlocale _compression _pyio aifc bz2 compression csv dbm filecmp fileinput fnmatch
        genericpath glob gzip io linecache lzma ntpath nturl2path pathlib pickle pickletools
        plistlib posixpath shelve shutil sqlite3 stat sunau tarfile tempfile tomllib wave zipapp
        zipfile configparser netrc xdrlib chunk sndhdr imghdr
    """,
    "operating system": """
        _aix_support _android_support _apple_support _ios_support _osx_support argparse cmd code
        codeop crypt ctypes curses getopt getpass logging nt optparse os pipes platform pty sched
        signal site sysconfig time tty
    """,
    "concurrency": """
        _threading_local asynchat asyncio asyncore concurrent contextvars multiprocessing selectors
        socket ssl subprocess threading
    """,
    "internet": """
        cgi cgitb ftplib http imaplib ipaddress nntplib poplib smtpd smtplib socketserver telnetlib
        urllib webbrowser wsgiref xmlrpc
    """,
    "mail and markup": "_markupbase email json mailbox mailcap mimetypes xml",
    "graphical interfaces": "tkinter turtle",
    "development": """
        _sitebuiltins bdb cProfile distutils doctest ensurepip pdb profile pstats pydoc timeit trace
        tracemalloc unittest venv _pyrepl rlcompleter profiling
    """,
    "language": """
        __future__ _ast_unparse _colorize _opcode_metadata annotationlib ast atexit compileall
        contextlib dis imp importlib inspect keyword modulefinder opcode pkgutil py_compile pyclbr
        runpy string.templatelib symtable tabnanny token tokenize traceback typing warnings
        zipimport
    """,
}
_SECTION_OF = {module: section for section, modules in SECTIONS.items() for module in modules.split()}


@dataclass(frozen=True)
class Docstring:
    """A docstring on one line, with the name of the module it stands in."""

    module: str
    text: str

    @property
    def key(self) -> str:
        """The first words in lower case, without punctuation; docstrings of one key count as one."""
        return " ".join(re.findall(r"[a-z]+", self.text.lower())[:_KEY_WORDS])

    @property
    def held_out(self) -> bool:
        """Return whether it belongs to the validation split, by a hash of its words."""
        digest = hashlib.sha256(self.key.encode()).digest()
        return int.from_bytes(digest[:4]) % 100 < _VALIDATION_PERCENT


def library_docstrings(library: Path | None = None) -> list[Docstring]:
    """Read the docstrings of the standard library from its source, in the order of its files.

    Nothing is imported. Docstrings under four words and repetitions of earlier ones are left out. Raises
    `FileNotFoundError` if this Python lacks its source files.
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
            f"{library} holds no Python source to read text from; give your own with --dataset-name, --text"
        )
    return found


def _read(path: Path, module: str) -> Iterator[Docstring]:
    # Some files, such as templates, are not valid Python.
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
    """Return texts for masked language modeling: topics and docstrings; docstrings alone for validation."""
    kept = [docstring.text for docstring in docstrings if not docstring.held_out]
    held_out = [docstring.text for docstring in docstrings if docstring.held_out]
    return DatasetDict(
        train=Dataset.from_dict({"text": library_topics() + kept}),
        validation=Dataset.from_dict({"text": held_out}),
    )


def library_sections(docstrings: Sequence[Docstring]) -> DatasetDict:
    """Return the task: docstrings as `text`, the section of the library that each comes from as `label`."""
    labeled = [(docstring, section_of(docstring.module)) for docstring in docstrings]
    present = {section for _, section in labeled}
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=[name for name in SECTIONS if name in present])}
    )

    def rows(held_out: bool) -> Dataset:
        chosen = [
            (docstring.text, section)
            for docstring, section in labeled
            if section is not None and docstring.held_out is held_out
        ]
        columns = {"text": [text for text, _ in chosen], "label": [section for _, section in chosen]}
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(train=rows(held_out=False), validation=rows(held_out=True))


def section_of(module: str) -> str | None:
    """Return the section of a module such as `email.mime.text`; None if no chapter describes it."""
    package = module
    while package not in _SECTION_OF and "." in package:
        package = package.rpartition(".")[0]
    return _SECTION_OF.get(package)
