"""Whether what was printed is what a page shows."""

import re
from itertools import zip_longest

# Depend on the weights, which differ in the last bit from processor to processor: digests, and what a file
# takes. Shares of zeros and counts do not, and are compared as they are.
_DIGEST = re.compile(r"\b[0-9a-f]{16}\b")
_RULE = re.compile(r"─+")
_MEASURE = re.compile(r"(\d[\d,]*\.?\d*)(x?)")
_TOLERANCE = 0.2
_UNITS = ("B", "kB", "MB", "GB", "s", "ms")


def differences(shown: list[str], printed: list[str]) -> list[str]:
    """Return where lines differ from those shown; a line `...` stands for any number of them."""
    return _match([_words(line) for line in shown], [_words(line) for line in printed])


def _match(shown: list[list[str]], printed: list[list[str]]) -> list[str]:
    if ["..."] not in shown:
        pairs = zip_longest(shown, printed, fillvalue=["(no line)"])
        return [f"{' '.join(a)}  |  {' '.join(b)}" for a, b in pairs if not _same_line(a, b)]
    first = shown.index(["..."])
    rest = shown[first + 1 :]
    wrong = _match(shown[:first], printed[:first])
    if wrong:
        return wrong
    tails = [_match(rest, printed[start:]) for start in range(first, len(printed) + 1)]
    return min(tails, key=len)


def _words(line: str) -> list[str]:
    return _RULE.sub("", _DIGEST.sub("(digest)", line)).split()


def _same_line(shown: list[str], printed: list[str]) -> bool:
    units = [*shown[1:], ""]
    return len(shown) == len(printed) and all(map(_same_word, shown, printed, units))


def _same_word(shown: str, printed: str, next_word: str) -> bool:
    """Compare words; those that measure sizes, times and ratios may differ a little."""
    if shown == printed:
        return True
    one, other = _MEASURE.fullmatch(shown.rstrip(",")), _MEASURE.fullmatch(printed.rstrip(","))
    measured = one and other and (one[2] or "." in one[1] or next_word.rstrip(",.") in _UNITS)
    if not measured or one[2] != other[2]:
        return False
    numbers = [float(match[1].replace(",", "")) for match in (one, other)]
    return abs(numbers[0] - numbers[1]) <= _TOLERANCE * max(numbers)
