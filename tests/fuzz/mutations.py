"""Damage that keeps the structure of a file, so that it is found behind every checksum."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

# How many files each reader is given; HF_SPARSE_FUZZ=100 gives it a hundred times as many.
TIMES = int(os.environ.get("HF_SPARSE_FUZZ", "1"))
# Longer messages quote what nobody can read.
_LONGEST = 4000
_NASTY: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "x",
    "0",
    "50%",
    "nan%",
    "²",
    "\0",
    "\ud800",
    "$\\frac$",
    "../..",
    "[(",
    "a" * 3000,
    "2026-01-01",
    "0001-01-01T00:00:00+23:59",
    [],
    {},
    [None],
    [[]],
    {"": {}},
    {"a": 1},
    [1, "a", None],
]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in nested tables and lists: what holds it, and its key."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def damaged(value: Any, random: Random) -> Any:
    """Return a copy of nested tables and lists with one to three places changed."""
    value = deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        found = list(places(value))
        if not found or random.random() < 0.03:
            return random.choice([*_NASTY, nested(50), nested(150)])
        holder, key = random.choice(found)
        others = [held[other] for held, other in found]
        kind = random.random()
        if kind < 0.15:
            del holder[key]
        elif kind < 0.3:
            # Right elsewhere.
            holder[key] = deepcopy(random.choice(others))
        elif kind < 0.4 and isinstance(holder, dict):
            holder[random.choice(("", "a", "a.b", "\0", "x" * 300, "0"))] = deepcopy(holder[key])
        elif kind < 0.45 and isinstance(holder, list):
            holder.extend(deepcopy(holder[key]) for _ in range(3))
        elif isinstance(holder[key], int | float) and kind < 0.6:
            holder[key] = -holder[key] if random.random() < 0.5 else holder[key] * 2**40
        else:
            holder[key] = deepcopy(random.choice([*_NASTY, nested(50), nested(150)]))
    return value


def as_text(value: Any, random: Random) -> bytes:
    """Return JSON of a value, at times cut short, with a bit flipped or with something behind it."""
    content = bytearray(json.dumps(value).encode())
    kind = random.random()
    if kind < 0.03:
        del content[random.randrange(len(content) + 1) :]
    elif kind < 0.06 and content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind < 0.08:
        content += random.choice((b"\xff", b"\0", b"}", b"\n{}"))
    return bytes(content)


def cases(name: str, count: int) -> Iterator[Random]:
    """Yield sources of chance, the same in every run."""
    for number in range(count * TIMES):
        yield Random(f"{name}-{number}")


@contextmanager
def plain_errors_only(*names: object, rule: bool = False) -> Iterator[None]:
    """Let through what is read, and errors that a user can act upon: which file, what is wrong, what to do.

    Some of the names must be in the message. Where a `rule` says enough there need not be a way out.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        said = str(error)
        assert len(said) < _LONGEST, said[:300]
        assert any(str(name) in said for name in names), said
        # The system, and transformers of an unknown kind of model, say themselves what is to be done.
        assert rule or ";" in said or isinstance(error, OSError) or "Should have" in said, said


def rewritten(path: Path, content: bytes, call: Callable[[], Any]) -> None:
    """Call something with a file replaced, and put it back."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        call()
    finally:
        path.write_bytes(before)
