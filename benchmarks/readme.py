"""Write the measured tables of README.md and docs/ from the files in benchmarks/results.

A result file holds `name`, `columns`, `rows` (one mapping from column to value each), `hardware`,
`versions`, `settings`, `command` and `date`. Its table goes between the lines `<!-- results:NAME -->`
and `<!-- /results -->`. `<!-- results:NAME | COLUMN; COLUMN | CELL; CELL & CELL -->` takes a part of it:
these columns, and of the rows those that hold such a cell, or all such cells. Between `<!-- house -->` and
`<!-- /house -->` goes the table of benchmarks/house.py.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.house import House, measure, table
from hf_sparse.atomic.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
# The page that shows every result whole; others show parts.
WHOLE = DOCS / "results.md"
DESIGN = DOCS / "design.md"
RESULTS = ROOT / "benchmarks" / "results"
KEYS = ("name", "columns", "rows", "hardware", "versions", "settings", "command", "date")

# Of the versions, those that a figure depends on most; the file has all of them.
_VERSIONS = ("hf_sparse", "torch", "transformers")

# `make lint` fails if the type checker finds any; running it here would take a minute.
TYPE_ERRORS = 0

_HOUSE = re.compile(r"(<!-- house -->\n).*?(<!-- /house -->)", re.DOTALL)
_PLACE = re.compile(r"(<!-- results:(\w+)((?: \| [^|\n]+)*) -->\n).*?(<!-- /results -->)", re.DOTALL)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every result file of a folder by its name; raise `ValueError` where one lacks a key."""
    results = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if missing := [key for key in KEYS if key not in result]:
            raise ValueError(
                f"{path.name} lacks {', '.join(missing)}; a figure carries its origin, measure it again"
            )
        results[result["name"]] = result
    return results


def require_places(page: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `ValueError` for a result that the page shows nowhere as a whole."""
    places = {name for _, name, part, _ in _PLACE.findall(page) if not part}
    if homeless := sorted(set(results) - places):
        raise ValueError(
            f"docs/results.md lacks a place for {homeless[0]}; add <!-- results:{homeless[0]} --> and "
            "<!-- /results -->"
        )


def fill(page: str, results: Mapping[str, Mapping[str, Any]], root: str = "") -> str:
    """Return the page with its marked places filled; `root` leads from the page to the repository."""

    def filled(place: re.Match[str]) -> str:
        opening, name, part, closing = place.groups()
        if name not in results:
            return f"{opening}{_NOT_MEASURED}{closing}"
        table = section(results[name], root) if not part else selection(results[name], part, root)
        return f"{opening}{table}{closing}"

    return _PLACE.sub(filled, page)


def selection(result: Mapping[str, Any], part: str, root: str = "") -> str:
    """Return some columns and rows of a result; raise `ValueError` where it has none that are asked for."""
    columns, *chosen = ([name.strip() for name in names.split(";")] for names in part.split(" | ")[1:])
    if unknown := [name for name in columns if name not in result["columns"]]:
        raise ValueError(f"{result['name']} lacks the column {unknown[0]!r}; it has {result['columns']}")
    rows = result["rows"]
    if chosen:
        rows = [row for wanted in chosen[0] for row in _holding(result, wanted.split(" & "))]
    context = f"{plain(result['hardware'])}; {result['date'][:10]}"
    return f"{_table(columns, rows)}\n\n{context}; a part of {_file(result, root)}.\n"


def _holding(result: Mapping[str, Any], cells: list[str]) -> list[Mapping[str, Any]]:
    found = [row for row in result["rows"] if set(cells) <= set(map(cell, row.values()))]
    if not found:
        raise ValueError(f"{result['name']} lacks a row with {' and '.join(cells)}")
    return found


def section(result: Mapping[str, Any], root: str = "") -> str:
    """Return the table of one result with a line that says where its figures come from."""
    origin = [
        result["hardware"],
        _named(result["versions"], _VERSIONS),
        result["settings"],
        result["date"][:10],
    ]
    context = "; ".join(plain(part) for part in origin if part)
    return (
        f"{_table(result['columns'], result['rows'])}\n\n{context}. Measured by `{result['command']}`; "
        f"details in {_file(result, root)}.\n"
    )


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _file(result: Mapping[str, Any], root: str) -> str:
    return f"[{result['name']}.json]({root}benchmarks/results/{result['name']}.json)"


def cell(value: Any) -> str:
    """Write a value for a reader: four significant digits, thousands apart, `-` for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def plain(origin: Any) -> str:
    """Write hardware, versions or settings, a text or a mapping, in one line; what is nested is left out."""
    if isinstance(origin, Mapping):
        flat = {name: value for name, value in origin.items() if not isinstance(value, Mapping)}
        return ", ".join(f"{name} {value}" for name, value in flat.items())
    return str(origin)


def _named(values: Any, names: tuple[str, ...]) -> Any:
    return {name: values[name] for name in names if name in values} if isinstance(values, Mapping) else values


def pages() -> dict[Path, str]:
    """Return the pages with tables, each with the relative path from it to the repository's root."""
    written = {page: "../" * len(page.relative_to(ROOT).parent.parts) for page in sorted(DOCS.rglob("*.md"))}
    return {README: ""} | written


def fill_house(page: str, house: House) -> str:
    """Return the page with the table of the house in its marked place."""
    return _HOUSE.sub(lambda place: f"{place[1]}{table(measure(house, TYPE_ERRORS))}\n{place[2]}", page)


def main() -> None:
    """Fill in README.md and the pages of docs/."""
    results = read_results(RESULTS)
    require_places(WHOLE.read_text(encoding="utf-8"), results)
    for page, root in pages().items():
        write_atomically(page, fill(page.read_text(encoding="utf-8"), results, root).encode())
    # Twice, since the table is a part of the pages that it measures.
    for _ in range(2):
        write_atomically(DESIGN, fill_house(DESIGN.read_text(encoding="utf-8"), House(ROOT)).encode())


_NOT_MEASURED = "Not measured yet.\n"

if __name__ == "__main__":
    main()
