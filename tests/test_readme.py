"""The examples of README and of the pages in docs/ run, with the output that is shown."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_sparse.cli.main import app
from hf_sparse.readers import read_yaml
from hf_sparse.recipe.recipe import Recipe, preset_names
from tests.guides.comparing import differences
from tests.guides.reading import sides
from tests.support.tiny import arguments, bert, sentences

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
MOST_LINES = 200


def block(language: str, page: str = README) -> str:
    return re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_LINES


@pytest.fixture(scope="module")
def ten_lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the ten lines print, and where they leave their model."""
    folder = tmp_path_factory.mktemp("readme")
    run = subprocess.run([sys.executable, "-c", block("python")], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout, folder


def test_the_ten_lines_print_what_readme_says(ten_lines: tuple[str, Path]) -> None:
    shown, printed = ([learned(line) for line in text.splitlines()] for text in (block("text"), ten_lines[0]))
    assert len(shown) > 3 and differences(shown, printed) == []


def learned(line: str) -> str:
    """Leave out what depends on the weights the model was born with."""
    return re.sub(r"'(loss|grad_norm)': '[^']*'", r"'\1'", line)


def test_the_two_lines_that_change_make_a_sparse_trainer(tmp_path: Path) -> None:
    old, new = sides(block("diff"))
    ast.parse(old)
    names = {"model": bert(), "args": arguments(tmp_path), "examples": sentences()}
    exec(new, names)
    assert names["trainer"].recipe == Recipe.preset("gmp_finetune")
    added = {line for line in new.splitlines() if not line.startswith("from hf_sparse import")}
    assert added - set(old.splitlines()) <= set(block("python").splitlines())


@pytest.mark.parametrize("shown", re.findall(r"```console\n\$ hf-sparse (.*?)```", COMMANDS, re.DOTALL))
def test_commands_print_what_their_page_says(
    shown: str, ten_lines: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ten_lines[1])
    monkeypatch.setenv("COLUMNS", "80")
    command, *lines = shown.splitlines()
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    shown = steady(lines)
    assert shown and shown == steady(result.stdout.splitlines())[: len(shown)]


def steady(lines: list[str]) -> list[str]:
    """Leave out what depends on the weights the model was born with: digests, entropy, dead neurons."""
    kept = [
        re.sub(r"masks [0-9a-f]{16}", "", line).rstrip() for line in lines if not line.startswith("Dead: ")
    ]
    return [line[:30] if line.startswith(("layers,", "whole", "encoder")) else line for line in kept]


def test_the_recipe_in_full_is_the_preset_prune_ofa_90() -> None:
    assert Recipe.from_dict(read_yaml(block("yaml", RECIPES))) == Recipe.preset("prune_ofa_90")


def test_every_preset_is_in_the_table() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", RECIPES, re.MULTILINE)) == preset_names()


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))]
    found = (pair for page in pages for pair in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+) +#", page, re.M))
    named = {name for pair in found for name in pair if name}
    assert {"demo", "test", "lint"} <= named <= targets
