"""The script that measures how easy the package is to find one's way in, on a package made for it."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import house
from benchmarks.house import House, are_twins, measure, table

FILES = {
    "hf_sparse/__init__.py": '"""Root."""\n\nNAMES = {"thing": "hf_sparse.sizes"}\n',
    "hf_sparse/py.typed": "",
    "hf_sparse/card.py": '''"""A card, which has no picture."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_sparse.hub.packing import pack


def show(text: str) -> str:
    # It is no # comment in a text.
    sign = "# has no place here"
    raise ValueError(f"{text} are no cards")
''',
    "hf_sparse/sizes.py": '"""Sizes."""\n',
    "hf_sparse/hub/__init__.py": "",
    "hf_sparse/hub/packing.py": '''"""Packs."""


def pack() -> None:
    from hf_sparse import card, sizes
''',
    "hf_sparse/hub/cards.py": '"""Cards."""\n\nfrom hf_sparse.hub.packing import pack\n',
    "hf_sparse/cli/cart.py": '"""A command."""\n\nimport hf_sparse.hub.cards\n',
    "hf_sparse/cli/carts.py": '"""A command."""\n',
    "README.md": "# Title\n\nIt has no cycles.\n\n```\nhas no effect\n```\n",
    "docs/guides/page.md": "There are no pages.\n",
}


@pytest.fixture
def made(tmp_path: Path) -> House:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(tmp_path)


def test_imports_in_functions_and_for_type_checkers_make_cycles(made: House) -> None:
    assert made.cycles == [["hf_sparse.card", "hf_sparse.hub.packing"]]


def test_a_name_in_a_text_counts_as_an_import(made: House) -> None:
    assert "hf_sparse.sizes" not in made.single_use
    assert made.single_use == {
        "hf_sparse.card": "hf_sparse.hub.packing",
        "hf_sparse.hub.cards": "hf_sparse.cli.cart",
    }


def test_names_are_looked_at_outside_the_command_line(made: House) -> None:
    assert made.twins == [("card", "cards")]
    assert made.in_ing == ["hf_sparse.hub.packing"]
    assert made.folders.most_common(1) == [(".", 2)]


@pytest.mark.parametrize(
    ("one", "other", "twins"),
    [
        ("card", "cards", True),
        ("pack", "packing", True),
        ("packing", "packed", True),
        ("teacher", "teaching", True),
        ("masks", "tasks", True),
        ("comparing", "compiling", True),
        ("prune", "runs", False),
        ("labels", "layers", False),
        ("kl", "ks", False),
        ("sidecar", "sizes", False),
    ],
)
def test_names_that_are_easily_confused_are_twins(one: str, other: str, twins: bool) -> None:
    assert are_twins(one, other) is are_twins(other, one) is twins


def test_negated_nouns_are_found_in_prose_alone(made: House) -> None:
    assert made.negations == [
        ("hf_sparse.card", "A card, which has no picture."),
        ("hf_sparse.card", "# has no place here"),
        ("hf_sparse.card", "are no cards"),
        ("hf_sparse.card", "# It is no # comment in a text."),
        ("README.md", "It has no cycles."),
        ("docs/guides/page.md", "There are no pages."),
    ]


def test_every_goal_is_judged(made: House) -> None:
    met = {name: line.met for name, line in measure(made).items()}
    assert met == {
        "lines": True,
        "ing": False,
        "twins": False,
        "single_use": False,
        "fullest_folder": True,
        "cycles": False,
        "negations": False,
        "readme": True,
        "types": None,
    }
    assert measure(made, 0)["types"].met is True
    assert measure(made, 3)["types"].met is False
    (made.package / "py.typed").unlink()
    assert measure(House(made.root))["types"].met is False


def test_the_table_is_printed_and_the_numbers_are_json(
    made: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(measure(made, 0)).splitlines()
    assert "| near-twin names, pairs | 1 | 0 | **no** |" in lines
    assert "| `py.typed`, errors of the type checker | yes, 0 errors | yes, 0 errors | yes |" in lines
    monkeypatch.setattr(sys, "argv", ["house.py", "--root", str(made.root), "--json", "--type-errors", "7"])
    house.main()
    found = json.loads(capsys.readouterr().out)
    assert found["types"] == {"value": [True, 7], "goal": "yes, 0 errors", "met": False}
    assert found["readme"]["value"] == 7
    monkeypatch.setattr(sys, "argv", ["house.py", "--root", str(made.root), "--list"])
    house.main()
    assert "cycles: 1\n  hf_sparse.card, hf_sparse.hub.packing" in capsys.readouterr().out
