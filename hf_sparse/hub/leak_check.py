"""Search the files of a push for secrets, pickles and paths of this machine."""

import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PureWindowsPath

from hf_sparse.hub.secrets import find_secret, pieces_of, secrets_in_use

_REFUSED = {
    "the arguments of a training run, with its token": ("training_args.bin",),
    "the state of a training run": ("optimizer*", "scheduler*", "scaler*", "rng_state*"),
    "a pickle, which runs code where it is loaded": ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt"),
    "keys, by its name": ("*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".env*", ".netrc"),
}
# File types by their first bytes.
_KINDS = {
    "a pickle, which runs code where it is loaded": (
        *(b"\x80" + bytes([version]) for version in (2, 3, 4, 5)),
        b"PK\x03\x04",
    ),
    "an archive, in which nothing can be searched": (
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ",
        b"\x28\xb5\x2f\xfd",
        b"7z\xbc\xaf",
        b"Rar!",
    ),
}
# Not after characters that make it part of a URL, a fraction or a tag.
_PATH = re.compile(r"(?<![\w/:.~<)\]}-])/[\w.@+-]+(?:/[\w.@+-]+)+")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/][\w.@+-]+(?:[\\/][\w.@+-]+)+")
# How JSON and YAML write backslashes, slashes and letters beyond ASCII.
_ESCAPED = re.compile(r"\\(?:([\\/])|u([0-9a-fA-F]{4}))")
# Vocabularies hold words of natural and programming languages, which may look like paths.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# Limit in bytes for all texts of a picture. A drawing has a line of text, a photograph some kilobytes.
_LONGEST_TEXT = 1 << 24
_HEADER = 8
# The limit of safetensors itself.
_LONGEST_HEADER = 100_000_000


def require_public(staged: Path, directory: Path, token: str | None) -> None:
    """Raise `ValueError` if a staged file holds a secret, a pickle or a path of this machine.

    `directory` is the directory that the staged files were made from, `token` the access token in use.
    """
    secrets = secrets_in_use(token)
    for path in sorted(entry for entry in staged.rglob("*") if entry.is_file()):
        if (reason := next(_reasons(path, directory, secrets), None)) is not None:
            name = path.relative_to(staged)
            raise ValueError(f"{name} would be pushed and holds {reason}; take that out of {directory}")


def _reasons(path: Path, directory: Path, secrets: tuple[str, ...]) -> Iterator[str]:
    for reason, names in _REFUSED.items():
        if any(fnmatchcase(path.name, name) for name in names):
            yield reason
    with open(path, "rb") as file:
        first = file.read(_HEADER)
    for reason, beginnings in _KINDS.items():
        if path.suffix != ".safetensors" and first.startswith(beginnings):
            yield reason
    if path.suffix == ".safetensors" and not _is_tensors(path, first):
        yield "no tensors, as its name says"
    try:
        hidden = list(texts_of_png(path)) if first == PNG else []
    except ValueError as error:
        yield str(error)
        return
    for pieces in (pieces_of(path), hidden):
        if (kind := find_secret(pieces, secrets)) is not None:
            yield kind
    text = _texts(path, first, hidden)
    vocabulary = path.name in _VOCABULARIES
    for found in [*_own_paths(text, directory, vocabulary), *([] if vocabulary else _paths_here(text))]:
        yield f"{found!r}, a path of this machine"


def _is_tensors(path: Path, first: bytes) -> bool:
    """Return whether a file begins like one of safetensors: the length of its header, then the header."""
    length, size = int.from_bytes(first, "little"), path.stat().st_size
    if len(first) < _HEADER or not 0 < length <= min(_LONGEST_HEADER, size - _HEADER):
        return False
    with open(path, "rb") as file:
        file.seek(_HEADER)
        return file.read(1) == b"{"


def _texts(path: Path, first: bytes, hidden: list[bytes]) -> str:
    """Return the text in a file, for tensors that of the header; escaped letters also unescaped."""
    with open(path, "rb") as file:
        if path.suffix == ".safetensors":
            text = _decoded(file.read(int.from_bytes(file.read(_HEADER), "little")))
        elif first == PNG:
            text = "\n".join(map(_decoded, hidden))
        else:
            text = _decoded(file.read())
    meant = _ESCAPED.sub(lambda found: found[1] or chr(int(found[2], 16)), text)
    return text if meant == text else f"{text}\n{meant}"


def _decoded(content: bytes) -> str:
    """Return the text of bytes in UTF-8 or UTF-16, an empty one for other bytes."""
    narrow = content.replace(b"\0", b"")
    # In UTF-16 every other byte of ASCII text is zero; a byte order mark may come first.
    is_wide = abs(len(content) - 2 * len(narrow)) <= len(content) // 8
    return narrow.decode("utf-8", "replace") if is_wide or narrow == content else ""


def _own_paths(text: str, directory: Path, vocabulary: bool) -> Iterator[str]:
    """Yield paths in the directories of the user, whether or not they exist."""
    own = [directory.resolve(), Path.home()]
    # Vocabularies hold words like /tmp/.
    own += [] if vocabulary else [Path(tempfile.gettempdir())]
    for known in dict.fromkeys(spelled for path in own for spelled in (str(path), path.as_posix())):
        match = re.search(rf"{re.escape(known)}(?![\w-])[/\\\w.-]*", text)
        # Every path begins with a home at /, and a vocabulary may hold a word as short as /root.
        if match and known != "/" and not (vocabulary and len(match[0]) <= len(known) + 1):
            yield match[0]


def _paths_here(text: str) -> Iterator[str]:
    """Yield absolute paths that exist, or of which a parent of at least two names exists."""
    found: dict[str, type[PurePath]] = dict.fromkeys(_PATH.findall(text), Path)
    found |= dict.fromkeys(_WINDOWS_PATH.findall(text), PureWindowsPath)
    for candidate, kind in found.items():
        path = kind(candidate.rstrip(".,"))
        if any(os.path.exists(known) for known in (path, *path.parents) if len(known.parts) > 2):
            yield candidate


def texts_of_png(path: Path) -> Iterator[bytes]:
    """Yield the text chunks of a PNG with their keywords, decompressed.

    Raises `ValueError` for a chunk that cannot be read, and for more text than any picture has.
    """
    left, size = _LONGEST_TEXT, path.stat().st_size
    with open(path, "rb") as file:
        file.seek(len(PNG))
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if length > size - file.tell():
                raise ValueError("a picture that is cut off")
            if kind == b"IEND":
                return
            if kind not in _TEXT_CHUNKS:
                file.seek(length + 4, 1)
                continue
            if length > left:
                raise ValueError("more text in a picture than can be searched")
            text = _text_of_chunk(kind, file.read(length), left)
            file.seek(4, 1)
            left -= len(text)
            yield text


def _text_of_chunk(kind: bytes, chunk: bytes, most: int) -> bytes:
    keyword, _, rest = chunk.partition(b"\0")
    if kind in (b"zTXt", b"iCCP"):
        return keyword + b"\n" + _inflated(rest[1:], most)
    if kind == b"iTXt" and rest[:1] == b"\1":
        language, translated, text = (rest[2:].split(b"\0", 2) + [b"", b""])[:3]
        return b"\n".join((keyword, language, translated, _inflated(text, most)))
    return chunk.replace(b"\0", b"\n")


def _inflated(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, most)
    except zlib.error as error:
        raise ValueError(f"a text in a picture that cannot be read ({error})") from error
    if stream.unconsumed_tail:
        raise ValueError("more text in a picture than can be searched")
    return text
