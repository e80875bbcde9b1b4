"""Figures become elements of a page."""

import re
from math import inf, isnan, nan

from hf_sparse.report.colors import BLUE, COLORS
from hf_sparse.report.page.canvas import Picture, average, name_axes, new_panels, thin_out, to_svg


def picture(name: str, title: str = "Title", points: int = 3) -> Picture:
    figure, (axes,) = new_panels(title)
    axes.plot(range(points), range(points), color=BLUE.light, marker="o", label=title)
    name_axes(axes, "cost of <b> in $", "a & b")
    return Picture(name, title, "A caption.", figure)


def test_two_figures_share_no_identifier_and_refer_to_their_own() -> None:
    found = [to_svg(picture(name)) for name in ("one", "two")]
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in found]
    assert names[0] and not names[0] & names[1]
    for svg, own in zip(found, names, strict=True):
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)) and all(
            (one or other) in own for one, other in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
        )


def test_every_color_is_a_variable_of_the_page() -> None:
    svg = to_svg(picture("one"))
    assert "var(--blue)" in svg and "var(--ink)" in svg
    assert not [color.name for color in COLORS if color.light in svg]
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)


def test_letters_are_text_in_the_face_of_the_page() -> None:
    svg = to_svg(picture("one", "5 $ and 6 $"))
    assert "5 $ and 6 $" in svg and "cost of &lt;b&gt; in $" in svg and "a &amp; b" in svg
    assert "DejaVu" not in svg and "<style" not in svg and "metadata" not in svg


def test_a_figure_says_what_it_shows_to_whoever_cannot_see_it() -> None:
    svg = to_svg(picture("one"))
    assert 'role="img"' in svg and 'aria-label="Title"' in svg and "<title>Title. A caption.</title>" in svg


def test_a_figure_scales_with_its_page() -> None:
    opening = to_svg(picture("one")).split(">")[0]
    assert 'viewBox="0 0 324 216"' in opening and " width=" not in opening


def test_long_series_keep_their_extremes_and_ends() -> None:
    values = [0.0] * 10_000
    values[4321], values[8765] = 5.0, -5.0
    steps, thin = thin_out(range(10_000), values)
    assert len(steps) <= 402 and steps[0] == 0 and steps[-1] == 9_999
    assert dict(zip(steps, thin, strict=True))[4321] == 5.0 and min(thin) == -5.0
    assert thin_out([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0])


def test_what_is_no_finite_number_is_a_gap() -> None:
    assert [isnan(value) for value in thin_out([1, 2, 3], [1.0, inf, nan])[1]] == [False, True, True]
    _, thin = thin_out(range(1000), [nan] * 500 + [2.0] * 500)
    assert isnan(thin[0]) and thin[-1] == 2.0


def test_stretches_are_averaged_with_their_ranges() -> None:
    steps, means, lows, highs = average([1, 2, 3, 4, 5, 6], [1.0, 3.0, 5.0, nan, nan, inf], most=3)
    assert (steps, means[:2], lows[:2], highs[:2]) == ([2, 4, 6], [2.0, 5.0], [1.0, 5.0], [3.0, 5.0])
    assert isnan(means[2])
