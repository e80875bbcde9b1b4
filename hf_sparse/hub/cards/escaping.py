"""Texts from elsewhere in a card: labels, names, reasons. Each stays one line, and text alone."""

import json
import re
import shlex
from typing import Any

# Blanks, ends of lines, what steers a terminal, what turns the direction of writing.
_NO_LETTERS = re.compile("[\\s\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")
_LONGEST = 300
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
# Within a word an underscore means nothing.
_MARKS = re.compile(r"[\\`*\[\]~#$&<>|]|(?<![^\W_])_|_(?![^\W_])")
# What the Hub makes an address of although nobody marked it; what begins a list or underlines a title.
_ADDRESS = re.compile(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)")
_BEGINNING = re.compile(r"^(\d*)(?=[.)]( |$))|^(?=[-+=])")
_EMPTY = "(empty)"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def one_line(text: Any) -> str:
    """Return a text without ends of lines and other letters that are none, cut off where it is long."""
    # Of half a pair of surrogates no bytes can be made.
    whole = str(text).encode("utf-8", "replace").decode()
    line = _NO_LETTERS.sub(" ", whole).strip()
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def plain(text: Any) -> str:
    """Return a text as Markdown that shows it and does nothing else."""
    line = _MARKS.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), one_line(text) or _EMPTY)
    return _BEGINNING.sub(r"\1\\", _ADDRESS.sub(r"\\", line), count=1)


def code(text: Any) -> str:
    """Return a text as Markdown that shows it as code."""
    line = one_line(text)
    # An empty span is none, and where a bar is part of one, in a table, readers differ.
    if not line or "|" in line:
        return plain(line)
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{ticks}{padding}{line}{padding}{ticks}"


def fenced(text: str, language: str) -> str:
    """Return lines of code as a block that no line of them ends."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def hub_link(name: str, kind: str = "") -> str:
    """Return a link to a model on the Hub, or to what else lies there under `kind`; plain what is no name."""
    return f"[{plain(name)}](https://huggingface.co/{kind}{name})" if is_hub_name(name) else plain(name)


def is_hub_name(name: str) -> bool:
    """Say whether a text may be the name of something on the Hub: `name` or `owner/name`."""
    return _HUB_NAME.fullmatch(name) is not None


def literal(text: str) -> str:
    """Return a text as Python writes it."""
    return json.dumps(one_line(text))


def argument(text: str) -> str:
    """Return a text as one word of a shell."""
    return shlex.quote(one_line(text))
