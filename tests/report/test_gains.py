"""The table of what patterns buy."""

from io import StringIO

from rich.console import Console

from hf_sparse.report.gains import print_gains


def printed(chosen: list[str]) -> str:
    console = Console(file=StringIO(), width=80)
    times = {"4x4": {0.5: 1.26, 0.9: 5.0}, "unstructured": {0.5: 1.0, 0.9: 3.21}}
    print_gains("One layer:", times, chosen, console)
    return console.file.getvalue()


def test_gains_stand_by_pattern_and_sparsity() -> None:
    lines = printed([]).splitlines()
    assert "One layer:" in lines[1]
    assert [line.split() for line in lines if line.startswith(("4x4", "unst"))] == [
        ["4x4", "1.3x", "5.0x"],
        ["unstructured", "1.0x", "3.2x"],
    ]
    assert "50% zeros" in printed([]) and "recipe" not in printed(["2:4"])


def test_the_pattern_of_the_recipe_is_marked() -> None:
    assert "4x4 *" in printed(["4x4"]) and "* the recipe's" in printed(["4x4"])
