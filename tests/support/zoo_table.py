"""Write the table of docs/architectures.md: what `find_targets` says of every model in the zoo."""

import re
from collections.abc import Iterable
from pathlib import Path

from hf_sparse.modules import base_prefix
from hf_sparse.targets import Target, find_targets
from tests.support.zoo import ARCHITECTURES, Architecture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
COLUMNS = ["architecture", "class", "pruned", "left out", "stored as"]

_PLACE = re.compile(r"(<!-- architectures -->\n).*?(<!-- /architectures -->)", re.DOTALL)


def fill(page: str) -> str:
    """Return the page with the table in its marked place; raise `ValueError` if it has none."""
    if not _PLACE.search(page):
        raise ValueError(
            "the page lacks a place for the table; add <!-- architectures --> and <!-- /architectures -->"
        )
    return _PLACE.sub(lambda place: place[1] + table() + place[2], page)


def table() -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row(entry) for entry in ARCHITECTURES)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def row(architecture: Architecture) -> list[str]:
    """Describe one architecture in the order of `COLUMNS`."""
    model = architecture.model()
    targets = find_targets(model)
    layers = {re.match(r".*?\.\d+", name)[0] for name in targets.names}
    pruned = f"{len(targets)} in {len(layers)} layer{'s' * (len(layers) > 1)}"
    reasons: dict[str, list[str]] = {}
    for entry in targets.left_out:
        # What stands before the explanation of a reason.
        reason = re.split(r": | \(", entry.reason)[0]
        reasons.setdefault(reason, []).append(entry.name.removeprefix(f"{base_prefix(model)}."))
    left_out = [f"{reason}: {kinds(names)}" for reason, names in reasons.items()]
    storage = ", ".join(dict.fromkeys(stored_as(target) for target in targets))
    return [
        architecture.name,
        f"`{architecture.kind.__name__}`",
        f"{pruned}: {kinds(targets.names)}",
        "; ".join(left_out),
        storage,
    ]


def kinds(names: Iterable[str]) -> str:
    """Name each matrix of a layer once, those of one module together: `attention (query, key)`."""
    grouped: dict[str, dict[str, None]] = {}
    for name in names:
        kind = re.sub(r"\.weight$|\[\d+\]$", "", re.split(r"\.\d+\.", name)[-1])
        parent, _, own = kind.rpartition(".")
        grouped.setdefault(parent, {})[own] = None
    return ", ".join(
        f"{parent} ({', '.join(own)})"
        if parent and len(own) > 1
        else f"{parent}.{', '.join(own)}".lstrip(".")
        for parent, own in grouped.items()
    )


def stored_as(target: Target) -> str:
    if target.expert is None:
        return "Conv1D" if target.transposed else "Linear"
    return "transposed experts" if target.transposed else "experts"


def main() -> None:
    """Fill in docs/architectures.md."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
