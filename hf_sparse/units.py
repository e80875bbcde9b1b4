"""Numbers as reports and cards write them, and the thresholds that they share."""

# A model with a smaller share of zeros is dense: chance and rounding leave some zeros in every model.
DENSE_BELOW = 0.01


def percent(share: float, gap: str = "") -> str:
    """Write a share as 12.3%, with `gap` before the sign."""
    return f"{100 * share:.1f}{gap}%"


def size(count: float) -> str:
    """Write bytes as decimal megabytes, or as kilobytes below 100 kB, with the unit: 1.23 MB, 45.6 kB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def megabytes(count: int) -> str:
    """Write bytes as decimal megabytes without the unit, with more decimals the fewer they are."""
    decimals = 3 if count < 1e6 else 2 if count < 1e7 else 1
    return f"{count / 1e6:,.{decimals}f}"


def milliseconds(taken: float) -> str:
    """Write milliseconds with three significant digits, whole from 100 on."""
    return f"{taken:,.0f}" if taken >= 100 else f"{taken:.3g}"


def short(number: float) -> str:
    """Write a number with two decimals, one from 100 on, none from 1000 on."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1f}" if number >= 100 else f"{number:.2f}"


def counted(count: int, noun: str) -> str:
    """Write how many there are of something: 1 thread, 2 threads."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
