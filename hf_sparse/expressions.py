"""Regular expressions that choose weights by their names, and cannot take for ever."""

import re
import time
from math import prod

import regex

# Of processor time, for all names together; a usual expression takes a millionth of that for a name.
_SECONDS = 5.0
# No name has as many characters.
_MOST_REPEATS = 10_000
_REPEATS = re.compile(r"\{(\d{0,9}),?(\d{0,9})\}")


class Expression:
    """A regular expression of Python, found in names as `re.search` finds it.

    Some take time that doubles with every character of a name, and `re` cannot be interrupted; `regex`, which
    transformers depends on, can. Raises `ValueError` naming its `role` for what is no expression, and while
    searching for one that takes too long.
    """

    def __init__(self, text: str, role: str) -> None:
        self.text, self.role, self._left = text, role, _SECONDS
        counts = [
            max(int(number) for number in pair if number) for pair in _REPEATS.findall(text) if any(pair)
        ]
        # Each of them is written out before anything is searched.
        if prod(max(count, 1) for count in counts) > _MOST_REPEATS:
            raise ValueError(f"{role}: {text[:80]!r} repeats more often than any name is long; write + or *")
        try:
            self._pattern = regex.compile(text)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{role}: {text[:80]!r} is not a regular expression: {error}") from error

    def search(self, name: str) -> "regex.Match[str] | None":
        """Return where the expression is found in a name, None if it is not."""
        began = time.process_time()
        try:
            return self._pattern.search(name, timeout=max(self._left, 0.001))
        except TimeoutError as error:
            raise ValueError(
                f"{self.role}: {self.text[:80]!r} takes too long to be looked for in {name!r}; say it "
                "without repeats within repeats, or of parts that can stand for each other"
            ) from error
        finally:
            self._left -= time.process_time() - began
