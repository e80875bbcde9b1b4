"""Files that are about to be published, searched for what must stay on this machine."""

import os
import re
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PureWindowsPath

_REFUSED = {
    "the arguments of a training run, with its token": ("training_args.bin",),
    "the state of a training run": ("optimizer*", "scheduler*", "scaler*", "rng_state*"),
    "a pickle, which runs code where it is loaded": ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt"),
}
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
# Not behind what makes it a part of an address, of a fraction or of a tag.
_PATH = re.compile(r"(?<![\w/:.~<)\]}-])/[\w.@+-]+(?:/[\w.@+-]+)+")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/][\w.@+-]+(?:[\\/][\w.@+-]+)+")
# How JSON and YAML write backslashes, slashes and letters beyond ASCII.
_ESCAPED = re.compile(r"\\(?:([\\/])|u([0-9a-fA-F]{4}))")
# Their texts are words of a language, programming languages among them.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
_HEADER = 8


def require_public(staged: Path, directory: Path, token: str | None) -> None:
    """Raise `ValueError` naming a file that is a pickle or holds a token or a path of this machine, if any.

    `directory` is the one that the staged files were made of, `token` the one in use.
    """
    for path in sorted(entry for entry in staged.rglob("*") if entry.is_file()):
        if (reason := next(_reasons(path, directory, token), None)) is not None:
            name = path.relative_to(staged)
            raise ValueError(f"{name} would be published and holds {reason}; take that out of {directory}")


def _reasons(path: Path, directory: Path, token: str | None) -> Iterator[str]:
    for reason, names in _REFUSED.items():
        if any(fnmatchcase(path.name, name) for name in names):
            yield reason
    with open(path, "rb") as file:
        if file.read(4).startswith(_PICKLES):
            yield "a pickle, which runs code where it is loaded"
    text = _text(path)
    if _TOKEN.search(text) or (token and token in text):
        yield "a token of the Hub"
    vocabulary = path.name in _VOCABULARIES
    for found in [*_own_paths(text, directory, vocabulary), *([] if vocabulary else _paths_here(text))]:
        yield f"{found!r}, a path of this machine"


def _text(path: Path) -> str:
    """Return what of a file is text, of tensors the header; where letters are escaped also what they mean."""
    with open(path, "rb") as file:
        if path.suffix == ".safetensors":
            content = file.read(int.from_bytes(file.read(_HEADER), "little"))
        else:
            content = file.read()
    text = "" if b"\0" in content else content.decode("utf-8", "replace")
    meant = _ESCAPED.sub(lambda found: found[1] or chr(int(found[2], 16)), text)
    return text if meant == text else f"{text}\n{meant}"


def _own_paths(text: str, directory: Path, vocabulary: bool) -> Iterator[str]:
    """Find the user's own directories, whether or not what they are said to hold is there."""
    own = [directory.resolve(), Path.home()]
    # Words like /tmp/ are in vocabularies.
    own += [] if vocabulary else [Path(tempfile.gettempdir())]
    for known in dict.fromkeys(spelt for path in own for spelt in (str(path), path.as_posix())):
        match = re.search(rf"{re.escape(known)}(?![\w-])[/\\\w.-]*", text)
        # Of a home at / everything would be a part; a word may be as short as /root.
        if match and known != "/" and not (vocabulary and len(match[0]) <= len(known) + 1):
            yield match[0]


def _paths_here(text: str) -> Iterator[str]:
    """Find absolute paths that are there, or whose beginning of two names and more is."""
    found: dict[str, type[PurePath]] = dict.fromkeys(_PATH.findall(text), Path)
    found |= dict.fromkeys(_WINDOWS_PATH.findall(text), PureWindowsPath)
    for candidate, kind in found.items():
        path = kind(candidate.rstrip(".,"))
        if any(os.path.exists(known) for known in (path, *path.parents) if len(known.parts) > 2):
            yield candidate
