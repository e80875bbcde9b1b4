"""The page as a browser shows it, on a phone and on a desktop, in light and in dark."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_sparse.report.colors import contrast
from hf_sparse.report.page.write import PAGE, write_page
from hf_sparse.runs.comparison import trace_runs
from hf_sparse.runs.measured_run import gather_runs
from tests.report.page.browser import NAMES, Browser, find_browser
from tests.report.runs import write_run

PHONE, DESKTOP = (360, 740), (1280, 900)
SCREENS = [PHONE, DESKTOP]
pytestmark = pytest.mark.skipif(
    find_browser() is None,
    reason=f"none of {', '.join(NAMES)} is installed; run apt-get install chromium",
)

# What is wider than the page, though it stands in no box of its own that scrolls.
_OVERFLOWING = """
[...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return (box.right > innerWidth + 0.5 || box.left < -0.5) && !element.closest(".scroll, pre, svg, thead");
}).map(element => element.outerHTML.slice(0, 120))
"""
# The size in pixels in which every text is seen; that of a figure shrinks with it.
_SIZES = """
[...document.querySelectorAll("body *")].filter(
  element => [...element.childNodes].some(node => node.nodeType == 3 && node.textContent.trim())
    && !element.closest("title, defs") && element.tagName != "title"
).map(element => {
  const size = parseFloat(getComputedStyle(element).fontSize);
  const scale = element.ownerSVGElement ? element.getScreenCTM().a ** 2 + element.getScreenCTM().b ** 2 : 1;
  return [size * Math.sqrt(scale), element.textContent.trim().slice(0, 40)];
})
"""
# The color of every text, and that of what it stands on.
_COLORS = """
[...document.querySelectorAll("body *")].filter(
  element => [...element.childNodes].some(node => node.nodeType == 3 && node.textContent.trim())
    && element.tagName != "title"
).map(element => {
  const style = getComputedStyle(element);
  let below = element;
  while (getComputedStyle(below).backgroundColor == "rgba(0, 0, 0, 0)") below = below.parentElement;
  return [element.ownerSVGElement ? style.fill : style.color, getComputedStyle(below).backgroundColor];
})
"""
_HIDDEN = """
[...document.querySelectorAll("h1, h2, h3, p, dd, dt, pre, figcaption, tbody td:not(.empty), tbody th")]
  .filter(element => element.textContent.trim())
  .filter(element => Math.min(element.offsetWidth, element.offsetHeight) < 4)
  .map(element => element.outerHTML.slice(0, 80))
"""
_FIGURES = """
[...document.querySelectorAll("figure")].map(figure => {
  const svg = figure.querySelector("svg").getBoundingClientRect();
  return [svg.left, svg.top, svg.width, svg.height];
})
"""
# Pairs of texts of one figure that cover each other.
_COVERED = """
[...document.querySelectorAll("figure svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  const out = texts.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1);
  const pairs = texts.flatMap(([one, a], place) => texts.slice(place + 1).filter(([other, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4
  ).map(([other]) => [one.textContent, other.textContent]));
  return [...out.map(([text]) => text.textContent), ...pairs];
})
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(find_browser(), tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that one can have: stages, all figures, maps, differences, long names."""
    home = tmp_path_factory.mktemp("home")
    lasso = [
        {
            "step": step,
            "loss": 2.0 / step,
            "loss_task": 1.0,
            "loss_logits": 0.5,
            "loss_hidden": 0.2,
            "penalty": 0.1,
        }
        | {
            "groups_gone": step / 40,
            "penalty_strength": 10.0**-step,
            "sparsity": step / 40,
            "learning_rate": 1e-5,
        }
        | {"eval_loss": 1.0, "eval_accuracy": step / 20}
        for step in range(1, 21)
    ]
    dense = write_run(home / "dense", sparsity=0.0, accuracy=0.9, milliseconds=12.5)
    long = home / ("a_long_name_of_a_run-" * 3)
    pruned = write_run(long, base_model=str(dense), teacher=str(dense), log=lasso, accuracy=0.8)
    task = write_run(home / "task", base_model=str(pruned), accuracy=0.85, milliseconds=3.25)
    write_page(trace_runs(gather_runs([task])), home / "out")
    return home / "out" / PAGE


@pytest.mark.parametrize(("width", "height"), SCREENS)
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_asked_for_and_nothing_is_complained_of(
    browser: Browser, page: Path, width: int, height: int, dark: bool
) -> None:
    browser.open(page, width, height, dark)
    assert browser.requests == [page.as_uri()] and browser.complaints == []


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_the_page_is_as_wide_as_the_screen(browser: Browser, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.evaluate(_OVERFLOWING) == []


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_every_letter_can_be_read(browser: Browser, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    sizes = browser.evaluate(_SIZES)
    assert len(sizes) > 200 and [text for size, text in sizes if size < 11] == []


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_no_text_in_a_figure_covers_another_or_is_cut_off(
    browser: Browser, page: Path, width: int, height: int
) -> None:
    browser.open(page, width, height)
    assert browser.evaluate(_COVERED) == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_letter_has_contrast(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, *DESKTOP, dark)
    pairs = {tuple(pair) for pair in browser.evaluate(_COLORS)}
    ratios = {pair: contrast(*map(_hexadecimal, pair)) for pair in pairs}
    assert len(pairs) > 4 and {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def test_dark_surroundings_get_a_dark_page(browser: Browser, page: Path) -> None:
    papers = []
    for dark in (False, True):
        browser.open(page, *PHONE, dark)
        papers.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(255, 255, 255)", "rgb(18, 24, 28)"]


def test_figures_stand_below_each_other_on_a_phone_and_abreast_on_a_desktop(
    browser: Browser, page: Path
) -> None:
    browser.open(page, *PHONE)
    boxes = browser.evaluate(_FIGURES)
    assert len(boxes) >= 10
    assert all(width == 336 and height > 150 for _, _, width, height in boxes)
    assert len({left for left, _, _, _ in boxes}) == 1
    browser.open(page, *DESKTOP)
    assert len({left for left, _, _, _ in browser.evaluate(_FIGURES)}) >= 2


@pytest.mark.parametrize(("width", "height"), SCREENS)
def test_every_value_is_shown(browser: Browser, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    assert browser.evaluate(_HIDDEN) == []


def _hexadecimal(color: str) -> str:
    channels = json.loads(f"[{color[color.index('(') + 1 : -1]}]")
    return "#" + "".join(f"{channel:02x}" for channel in channels[:3])
