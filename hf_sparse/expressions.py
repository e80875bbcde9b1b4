"""Regular expressions that choose weights by their names, with a limit on the time of a search."""

import re
import time
from math import prod

import regex

# Processor time for all names together; a usual expression takes a millionth of it per name.
_SECONDS = 5.0
# More than the characters of any name.
_MOST_REPEATS = 10_000
_REPEATS = re.compile(r"\{(\d{0,9}),?(\d{0,9})\}")


class Expression:
    """A regular expression of Python, searched in names like `re.search`.

    Some expressions take time that doubles with every character of a name. `re` cannot be interrupted then;
    `regex`, which transformers depends on, can.

    Args:
        text: the expression.
        role: the setting that it comes from, for error messages.

    Raises:
        ValueError: if `text` is not an expression; also while searching, if that takes too long.
    """

    def __init__(self, text: str, role: str) -> None:
        self.text, self.role, self._left = text, role, _SECONDS
        counts = [
            max(int(number) for number in pair if number) for pair in _REPEATS.findall(text) if any(pair)
        ]
        # Repeats are written out when the expression is compiled.
        if prod(max(count, 1) for count in counts) > _MOST_REPEATS:
            raise ValueError(f"{role}: {text[:80]!r} repeats more often than any name is long; write + or *")
        try:
            self._pattern = regex.compile(text)
        except (regex.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{role}: {text[:80]!r} is not a regular expression: {error}") from error

    def search(self, name: str) -> "regex.Match[str] | None":
        """Return the match of the expression in a name, None if there is none."""
        began = time.process_time()
        try:
            return self._pattern.search(name, timeout=max(self._left, 0.001))
        except TimeoutError as error:
            raise ValueError(
                f"{self.role}: {self.text[:80]!r} takes too long to be looked for in {name!r}; write it "
                "without nested repeats, or repeats of parts that match the same text"
            ) from error
        finally:
            self._left -= time.process_time() - began
