"""Measure how easy the package is to find one's way in: sizes, names, imports, prose, types.

    python benchmarks/house.py            a table with the goals, in Markdown
    python benchmarks/house.py --json     the same numbers as JSON
    python benchmarks/house.py --list     what stands behind them: pairs, files, cycles, lines

It reads files alone and takes about a second. `--mypy` runs the type checker too, which takes longer;
`--type-errors N` gives the number of its errors instead. docs/design.md shows the table.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "hf_sparse"
# One file for every command; its names repeat those of the commands.
APART = "cli"
# Negated nouns, where a plain verb would do. They are looked for in prose, and counted in 1,000 lines of all
# that was read, code included, so that packages compare.
NEGATION = re.compile(r"\b(is|has|are|have) no\b")
_ENDINGS = re.compile(r"(ing|ed|er|or|s|e)$")


class Module(NamedTuple):
    """A parsed file of the package, under its dotted name, with all nodes of its syntax tree."""

    name: str
    path: Path
    text: str
    nodes: list[ast.AST]


class House:
    """The package below a root directory, with its pages: README and those of `docs`."""

    def __init__(self, root: Path) -> None:
        self.root, self.package = root, root / PACKAGE
        self.modules = {module.name: module for module in self._read()}
        self.files = [module for module in self.modules.values() if module.path.name != "__init__.py"]
        self.lengths = [len(module.text.splitlines()) for module in self.files]
        self.in_ing = [module.name for module in self.files if module.path.stem.endswith("ing")]
        kept = [(self._folder(module), module.path.stem) for module in self.files]
        self.folders = Counter(folder for folder, _ in kept if folder != APART)
        stems = {stem for folder, stem in kept if folder != APART and not stem.startswith("__")}
        self.twins = [pair for pair in combinations(sorted(stems), 2) if are_twins(*pair)]
        pages = [*root.glob("README.md"), *sorted((root / "docs").rglob("*.md"))]
        self.pages = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in pages}
        self.readme_lines = len(self.pages.get("README.md", "").splitlines())
        self.is_typed = (self.package / "py.typed").is_file()

    def _read(self) -> Iterator[Module]:
        for path in sorted(self.package.rglob("*.py")):
            name = ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            yield Module(name, path, text, list(ast.walk(ast.parse(text, str(path)))))

    def _folder(self, module: Module) -> str:
        return module.path.parent.relative_to(self.package).as_posix()

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Modules of the package that each module imports, inside functions and for type checkers too."""
        found: dict[str, set[str]] = {name: set() for name in self.modules}
        for module in self.modules.values():
            for node in module.nodes:
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                    found[module.name] |= {name if name in self.modules else node.module for name in names}
                elif isinstance(node, ast.Import):
                    found[module.name] |= {alias.name for alias in node.names} & self.modules.keys()
            found[module.name].discard(module.name)
        return found

    @cached_property
    def single_use(self) -> dict[str, str]:
        """Files that exactly one other imports, or names as a text, with that other."""
        users = defaultdict(set)
        for name, imported in self.imports.items():
            for other in imported:
                users[other].add(name)
        for module in self.modules.values():
            for node in module.nodes:
                named = node.value if isinstance(node, ast.Constant) else None
                if isinstance(named, str) and named in self.modules and named not in (PACKAGE, module.name):
                    users[named].add(module.name)
        return {module.name: min(users[module.name]) for module in self.files if len(users[module.name]) == 1}

    @cached_property
    def cycles(self) -> list[list[str]]:
        """Groups of modules that import each other in a circle; the package's own `__init__` is left out."""
        graph = {name: found - {PACKAGE} for name, found in self.imports.items() if name != PACKAGE}
        leads = {name: reached(graph, name) for name in graph}
        groups = {
            frozenset(other for other in leads[name] if name in leads[other])
            for name in graph
            if name in leads[name]
        }
        return sorted(map(sorted, groups))

    @property
    def total_lines(self) -> int:
        """All lines of the package, code included, and of the pages."""
        texts = [*(module.text for module in self.modules.values()), *self.pages.values()]
        return sum(len(text.splitlines()) for text in texts)

    @cached_property
    def prose(self) -> list[tuple[str, str]]:
        """Every line of prose with the file it is in: docstrings, comments, messages, pages, README."""
        lines = [(module.name, line) for module in self.modules.values() for line in prose_of(module)]
        return lines + [(name, line) for name, page in self.pages.items() for line in without_code(page)]

    @cached_property
    def negations(self) -> list[tuple[str, str]]:
        """The lines of prose that negate a noun."""
        return [(name, line.strip()) for name, line in self.prose for _ in NEGATION.finditer(line)]


def are_twins(one: str, other: str) -> bool:
    """Return whether two names of four letters or more are easily confused.

    They are if they differ in one letter, in two after four that are equal, or in an ending alone (-s, -ing,
    -ed, -er, -or, -e).
    """
    if min(len(one), len(other)) < 4:
        return False
    limit = 2 if one[:4] == other[:4] else 1
    return distance(one, other) <= limit or _ENDINGS.sub("", one) == _ENDINGS.sub("", other)


def distance(one: str, other: str) -> int:
    """Return the letters to insert, delete or replace that turn one name into the other."""
    if abs(len(one) - len(other)) > 2:
        return 3
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, start=1):
        before, row[0] = row[0], place
        for index, sign in enumerate(other, start=1):
            shorter, replaced = min(row[index], row[index - 1]) + 1, before + (letter != sign)
            before, row[index] = row[index], min(shorter, replaced)
    return row[-1]


def reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Return the nodes that a path leads to from a node."""
    seen, waiting = set(), [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


def prose_of(module: Module) -> Iterator[str]:
    """Yield the lines of docstrings, comments and messages; a message is a text of several words."""
    spans = defaultdict(list)
    for node in module.nodes:
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
        if text is not None or isinstance(node, ast.JoinedStr):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                first = node.col_offset if line == node.lineno else 0
                last = node.end_col_offset if line == node.end_lineno else 10**6
                spans[line].append((first, last))
        if text is not None and " " in text.strip():
            yield from filter(str.strip, text.splitlines())
    for number, line in enumerate(module.text.splitlines(), start=1):
        start = line.find("#")
        while start >= 0:
            place = len(line[:start].encode())
            if not any(first <= place < last for first, last in spans[number]):
                yield line[start:]
                break
            start = line.find("#", start + 1)


def without_code(page: str) -> Iterator[str]:
    """Yield the lines of a page that are neither empty nor in a block of code."""
    inside = False
    for line in page.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif line.strip() and not inside:
            yield line


# What is measured: its name in JSON, its label in the table, its goal.
MEASURED = {
    "lines": ("lines a file: median, max", "at most 300"),
    "ing": ("modules whose name ends in -ing", "0"),
    "twins": ("near-twin names, pairs", "0"),
    "single_use": ("files imported by exactly one other", "< 20 %"),
    "fullest_folder": (f"fullest folder, {APART} apart", "<= 15"),
    "cycles": ("import cycles with deferred and TYPE_CHECKING imports", "0"),
    "negations": ("negated nouns in 1,000 lines of package and pages", "< 0.5"),
    "readme": ("README lines", "<= 200"),
    "types": ("`py.typed`, errors of the type checker", "yes, 0 errors"),
}


@dataclass(frozen=True)
class Line:
    """A line of the table: what was measured, how it is written, whether its goal in `MEASURED` is met."""

    value: Any
    shown: str
    met: bool | None


def measure(house: House, type_errors: int | None = None) -> dict[str, Line]:
    """Return every measurement; without `type_errors` it is open whether the goal for types is met."""
    middle, longest = median(house.lengths), max(house.lengths)
    share = len(house.single_use) / len(house.files)
    folder, fullest = house.folders.most_common(1)[0]
    rate = 1000 * len(house.negations) / house.total_lines
    errors = "not counted" if type_errors is None else f"{type_errors:,} errors"
    typed = None if house.is_typed and type_errors is None else house.is_typed and type_errors == 0
    found = {
        "lines": Line([middle, longest], f"{middle:g}, {longest:,}", longest <= 300),
        "single_use": Line(share, f"{100 * share:.1f} %", share < 0.2),
        "fullest_folder": Line(fullest, f"{folder} {fullest}", fullest <= 15),
        "negations": Line(rate, f"{rate:.2f}", rate < 0.5),
        "readme": Line(house.readme_lines, f"{house.readme_lines}", house.readme_lines <= 200),
        "types": Line([house.is_typed, type_errors], f"{'yes' if house.is_typed else 'no'}, {errors}", typed),
    }
    for name, several in (("ing", house.in_ing), ("twins", house.twins), ("cycles", house.cycles)):
        found[name] = Line(len(several), f"{len(several)}", not several)
    return {name: found[name] for name in MEASURED}


def table(lines: Mapping[str, Line]) -> str:
    """Return the measurements as a table in Markdown."""
    verdicts = {True: "yes", False: "**no**", None: "open"}
    rows = [
        f"| {label} | {lines[name].shown} | {goal} | {verdicts[lines[name].met]} |"
        for name, (label, goal) in MEASURED.items()
    ]
    return "\n".join(["| | measured | goal | met |", "|---|---|---|---|", *rows])


def details(house: House) -> str:
    """Return what stands behind the numbers."""
    parts = {
        "in -ing": house.in_ing,
        "near-twin names": [" / ".join(pair) for pair in house.twins],
        "imported by exactly one other": [f"{name} <- {user}" for name, user in house.single_use.items()],
        "fullest folders": [f"{folder} {count}" for folder, count in house.folders.most_common(5)],
        "cycles": [", ".join(cycle) for cycle in house.cycles],
        "negated nouns": [f"{name}: {line}" for name, line in house.negations],
    }
    return "\n\n".join("\n  ".join([f"{title}: {len(found)}", *found]) for title, found in parts.items())


def count_type_errors(root: Path) -> int | None:
    """Run mypy with the project's settings and return the number of errors, None if it is not installed."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=root, capture_output=True, text=True)
    if "No module named mypy" in done.stderr:
        return None
    found = re.search(r"Found (\d+) error", done.stdout)
    if found is None and done.returncode != 0:
        raise RuntimeError(f"mypy failed: {(done.stderr or done.stdout).strip()[:500]}")
    return int(found[1]) if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="Directory with the package and its pages.")
    parser.add_argument("--json", action="store_true", help="Print JSON in place of a table.")
    parser.add_argument("--list", action="store_true", help="Print what stands behind the numbers.")
    parser.add_argument("--mypy", action="store_true", help="Count the errors of the type checker.")
    parser.add_argument("--type-errors", type=int, help="The number of errors, counted before.")
    options = parser.parse_args()
    house = House(options.root)
    errors = count_type_errors(options.root) if options.mypy else options.type_errors
    lines = measure(house, errors)
    if options.json:
        found = {
            name: {"value": line.value, "goal": MEASURED[name][1], "met": line.met}
            for name, line in lines.items()
        }
        print(json.dumps(found, indent=1))
    else:
        print(details(house) if options.list else table(lines))


if __name__ == "__main__":
    main()
