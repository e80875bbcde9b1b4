"""Colors can be told from what they stand on."""

import pytest

from hf_sparse.report.colors import COLORS, INK, MUTED, PAPER, SERIES, contrast, shades


@pytest.mark.parametrize("side", ["light", "dark"])
def test_text_and_lines_have_contrast(side: str) -> None:
    paper = getattr(PAPER, side)
    assert all(contrast(getattr(color, side), paper) >= 4.5 for color in (INK, MUTED, *SERIES))


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_can_be_read_on_every_shade(dark: bool) -> None:
    assert min(contrast(shade.cell, shade.text) for shade in shades(dark)) >= 4.5
    assert len({shade.cell for shade in shades(dark)}) == 21


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_no_two_colors_are_drawn_alike() -> None:
    assert len({color.light for color in COLORS}) == len(COLORS)
