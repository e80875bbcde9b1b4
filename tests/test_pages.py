"""The pages of docs/ hang together: an index names all of them, links lead somewhere, lines are short."""

import re
from pathlib import Path

import pytest

from tests.guides.reading import ROOT

DOCS = ROOT / "docs"
WIDEST = 150
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def links(page: Path) -> list[tuple[str, str]]:
    """Return the links of a page as pairs of file and heading, without those to other sites."""
    found = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    return [(file, heading) for file, heading in found if not file.startswith(("https://", "http://"))]


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).lower().replace(" ", "-") for line in lines}


def dead(page: Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of it."""
    wrong = []
    for file, heading in links(page):
        target = page.parent / file if file else page
        known = not heading or (target.suffix == ".md" and target.is_file() and heading in headings(target))
        if not target.exists() or not known:
            wrong.append(f"{file}#{heading}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](#b) [c](none.md) [d](https://example.org/none)")
    assert dead(page) == ["#b", "none.md#"]


def prose(page: str) -> list[str]:
    """Return the lines of a page outside of code, tables, and places that a program fills."""
    kept = re.sub(r"^```.*?^```$|^<!-- (\w+)\b.*?^<!-- /\1 -->$", "", page, flags=re.DOTALL | re.MULTILINE)
    return [line for line in kept.splitlines() if not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_is_wrapped(page: Path) -> None:
    assert [line for line in prose(page.read_text(encoding="utf-8")) if len(line) > WIDEST] == []


def test_code_tables_and_filled_places_may_be_wide() -> None:
    page = "a\n```py\nb\n```\n| c |\n<!-- results:d -->\ne\n<!-- /results -->\n\nf\n"
    assert [line for line in prose(page) if line] == ["a", "f"]


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    named = {(DOCS / file).resolve() for file, _ in links(index)}
    assert {page for page in PAGES if page != index} <= named


def test_readme_leads_to_the_index() -> None:
    assert ("docs/README.md", "") in links(ROOT / "README.md")
