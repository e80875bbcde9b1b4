"""Escape texts that anybody may have written (labels, names, reasons), so that each stays one line."""

import json
import re
import shlex
from typing import Any

# White space, control characters, marks of the direction of writing.
_NO_LETTERS = re.compile("[\\s\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")
_LONGEST = 300
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
# An underscore within a word means nothing in Markdown.
_MARKS = re.compile(r"[\\`*\[\]~#$&<>|]|(?<![^\W_])_|_(?![^\W_])")
# Text that the Hub turns into a link by itself; text that begins a list or underlines a title.
_ADDRESS = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)")
_BEGINNING = re.compile(r"^(\d*)(?=[.)]( |$))|^(?=[-+=])")
_EMPTY = "(empty)"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def one_line(text: Any) -> str:
    """Return a text in one line without control characters, cut off after 300 characters."""
    # Half a surrogate pair cannot be encoded.
    whole = str(text).encode("utf-8", "replace").decode()
    line = _NO_LETTERS.sub(" ", whole).strip()
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def plain(text: Any) -> str:
    """Return Markdown that shows a text literally."""
    line = _MARKS.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), one_line(text) or _EMPTY)
    return _BEGINNING.sub(r"\1\\", _ADDRESS.sub(r"\\", line), count=1)


def code(text: Any) -> str:
    """Return Markdown that shows a text literally as code."""
    line = one_line(text)
    # Markdown lacks an empty span of code, and readers differ on a bar in one within a table.
    if not line or "|" in line:
        return plain(line)
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{ticks}{padding}{line}{padding}{ticks}"


def fenced(text: str, language: str) -> str:
    """Return lines of code as a block, with a fence that none of the lines can close."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def hub_link(name: str, kind: str = "") -> str:
    """Return a link to a model on the Hub, or under `kind` such as `datasets/`; plain text for others."""
    return f"[{plain(name)}](https://huggingface.co/{kind}{name})" if is_hub_name(name) else plain(name)


def is_hub_name(name: str) -> bool:
    """Return whether a text has the form of a name on the Hub: `name` or `owner/name`."""
    return _HUB_NAME.fullmatch(name) is not None


def literal(text: str) -> str:
    """Return a text as a string literal of Python."""
    return json.dumps(one_line(text))


def argument(text: str) -> str:
    """Return a text as one argument of a shell command."""
    return shlex.quote(one_line(text))
