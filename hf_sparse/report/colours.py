"""The colours of the page, each once for light and once for dark surroundings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A colour by what it is for: `light` on white, `dark` on nearly black.

    Figures are drawn with the light one, which is theirs alone, so that the page can put a variable of the
    style sheet in its place.
    """

    name: str
    light: str
    dark: str

    @property
    def variable(self) -> str:
        return f"var(--{self.name})"


PAPER = Colour("paper", "#ffffff", "#12181c")
INK = Colour("ink", "#1b2429", "#e6ebee")
MUTED = Colour("muted", "#55636b", "#a5b3bb")
LINE = Colour("line", "#d3dadd", "#3a474f")
BLUE = Colour("blue", "#1f6f8b", "#62b8d6")
ORANGE = Colour("orange", "#b4570a", "#f0a04b")
PURPLE = Colour("purple", "#7a4a9e", "#c6a2e4")
GREEN = Colour("green", "#3b7a37", "#88c77f")
RED = Colour("red", "#b02a5b", "#f28cab")
OLIVE = Colour("olive", "#79670f", "#d3be5a")
SLATE = Colour("slate", "#5b6b7b", "#a9b8c5")

SERIES = (BLUE, ORANGE, PURPLE, GREEN, RED, OLIVE, SLATE)
COLOURS = (PAPER, INK, MUTED, LINE, *SERIES)

# The ends of the scale of shares, light and dark.
_SCALE = (("#eef3f5", "#a9cbd6", "#1f6f8b", "#0d3b4c"), ("#18242b", "#234857", "#3d8fad", "#b5e3f5"))
STEPS = 20


@dataclass(frozen=True)
class Shade:
    """One step of the scale of shares: the colour of a cell and that of the number in it."""

    cell: str
    text: str


def shades(dark: bool) -> list[Shade]:
    """Return the scale from the smallest share to the largest, each with the text that is read best on it."""
    stops = [_channels(stop) for stop in _SCALE[dark]]
    found = []
    for step in range(STEPS + 1):
        place = step / STEPS * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        mixed = [
            round(low + (high - low) * (place - index))
            for low, high in zip(stops[index], stops[index + 1], strict=True)
        ]
        cell = "#" + "".join(f"{channel:02x}" for channel in mixed)
        found.append(Shade(cell, max("#000000", "#ffffff", key=lambda text, cell=cell: contrast(text, cell))))
    return found


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21, as WCAG 2.2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> list[int]:
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
