"""A page of the guides, as the fenced blocks that are in it."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "guides").glob("*.md"))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, the line of the page that the text begins on."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """What a reader types after `$`, with the lines that are shown below it."""

    typed: str
    shown: list[str]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page in order; raise `ValueError` for a fence that is indented or left open."""
    found = [
        Block(match[1], match[2], page[: match.start(2)].count("\n") + 1) for match in _BLOCK.finditer(page)
    ]
    if page.count("```") != 2 * len(found):
        raise ValueError("a fence is indented, left open, or has more than a word behind it")
    return found


def commands(text: str) -> list[Command]:
    """Split a console block into its commands; a line that ends in a backslash goes on."""
    before, *parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)
    if before or not parts:
        raise ValueError("a console block begins with a command, and a command with $")
    return [Command(typed, shown) for typed, *shown in map(str.splitlines, parts)]


def sides(diff: str) -> tuple[str, str]:
    """Return the old and the new text of a diff."""
    lines = diff.splitlines()
    old = (line[1:] for line in lines if not line.startswith("+"))
    new = (line[1:] for line in lines if not line.startswith("-"))
    return "\n".join(old), "\n".join(new)
