"""Write the measured tables of README.md from the files in benchmarks/results.

A result file holds `name`, `columns`, `rows` (one mapping from column to value each), `hardware`,
`versions`, `settings`, `command` and `date`. Its table goes between the lines `<!-- results:NAME -->`
and `<!-- /results -->`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
KEYS = ("name", "columns", "rows", "hardware", "versions", "settings", "command", "date")

# Of the versions, those that a figure depends on most; the file has all of them.
_VERSIONS = ("hf_sparse", "torch", "transformers")

_PLACE = re.compile(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)


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


def fill(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with its marked places filled; raise `ValueError` for a result that has no place."""
    places = {name for _, name, _ in _PLACE.findall(page)}
    if homeless := sorted(set(results) - places):
        raise ValueError(
            f"README has no place for {homeless[0]}; add <!-- results:{homeless[0]} --> and <!-- /results -->"
        )

    def filled(place: re.Match[str]) -> str:
        opening, name, closing = place.groups()
        return f"{opening}{section(results[name]) if name in results else _NOT_MEASURED}{closing}"

    return _PLACE.sub(filled, page)


def section(result: Mapping[str, Any]) -> str:
    """Return the table of one result with a line that says where its figures come from."""
    columns = result["columns"]
    lines = [
        columns,
        ["---"] * len(columns),
        *([cell(row.get(name)) for name in columns] for row in result["rows"]),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    origin = [
        result["hardware"],
        _named(result["versions"], _VERSIONS),
        result["settings"],
        result["date"][:10],
    ]
    context = "; ".join(plain(part) for part in origin if part)
    file = f"[{result['name']}.json](benchmarks/results/{result['name']}.json)"
    return f"{table}\n\n{context}. Measured by `{result['command']}`; all there is to know in {file}.\n"


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


def main() -> None:
    """Fill in README.md."""
    README.write_text(fill(README.read_text(encoding="utf-8"), read_results(RESULTS)), encoding="utf-8")


_NOT_MEASURED = "Not measured yet.\n"

if __name__ == "__main__":
    main()
