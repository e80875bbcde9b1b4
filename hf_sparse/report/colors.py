"""Colors of the page, each for light and for dark surroundings, and the scale of shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import Colormap


@dataclass(frozen=True)
class Color:
    """A color with a name: `light` on white, `dark` on nearly black.

    Figures are drawn with the light colors, each of which is unique, so that the page can replace them by
    variables of its style sheet.
    """

    name: str
    light: str
    dark: str

    @property
    def variable(self) -> str:
        return f"var(--{self.name})"


PAPER = Color("paper", "#ffffff", "#12181c")
INK = Color("ink", "#1b2429", "#e6ebee")
MUTED = Color("muted", "#55636b", "#a5b3bb")
LINE = Color("line", "#d3dadd", "#3a474f")
BLUE = Color("blue", "#1f6f8b", "#62b8d6")
ORANGE = Color("orange", "#b4570a", "#f0a04b")
PURPLE = Color("purple", "#7a4a9e", "#c6a2e4")
GREEN = Color("green", "#3b7a37", "#88c77f")
RED = Color("red", "#b02a5b", "#f28cab")
OLIVE = Color("olive", "#79670f", "#d3be5a")
SLATE = Color("slate", "#5b6b7b", "#a9b8c5")

SERIES = (BLUE, ORANGE, PURPLE, GREEN, RED, OLIVE, SLATE)
COLORS = (PAPER, INK, MUTED, LINE, *SERIES)

# Colors of the scale of shares, from the smallest to the largest, for light and for dark surroundings.
_STOPS = (("#eef3f5", "#a9cbd6", "#1f6f8b", "#0d3b4c"), ("#18242b", "#234857", "#3d8fad", "#b5e3f5"))
STEPS = 20


@dataclass(frozen=True)
class Shade:
    """One step of the scale of shares: the color of a cell and that of the number in it."""

    cell: str
    text: str


@dataclass(frozen=True)
class Scale:
    """The scale of shares from `low` to `high`, in `STEPS` steps."""

    low: float
    high: float

    @classmethod
    def over(cls, shares: Sequence[float]) -> "Scale":
        """Return the scale over the tenths in which shares lie: layers differ by less than 0 to 1."""
        low, high = floor(10 * min(shares)) / 10, ceil(10 * max(shares)) / 10
        low = max(min(low, high - 0.1), 0.0)
        return cls(low, max(high, low + 0.1))

    def step(self, share: float) -> int:
        """Return the step of a share, one outside the scale at its end."""
        place = min(max((share - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(STEPS * place)


@cache
def shades(dark: bool) -> tuple[Shade, ...]:
    """Return the steps of the scale, the smallest share first, each with black or white text by contrast."""
    stops = [_channels(stop) for stop in _STOPS[dark]]
    found = []
    for step in range(STEPS + 1):
        place = step / STEPS * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        mixed = [
            round(low + (high - low) * (place - index))
            for low, high in zip(stops[index], stops[index + 1], strict=True)
        ]
        cell = "#" + "".join(f"{channel:02x}" for channel in mixed)
        black, white = contrast("#000000", cell), contrast("#ffffff", cell)
        found.append(Shade(cell, "#000000" if black >= white else "#ffffff"))
    return tuple(found)


def color_map() -> "Colormap":
    """Return the scale on light surroundings as matplotlib takes it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("zeros", list(_STOPS[False]))


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, from 1 to 21, as WCAG 2.2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(color))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(color: str) -> list[int]:
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]
