"""The examples of README and of the pages in docs/ run, with the output that is shown."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from hf_sparse.cli.main import app
from hf_sparse.readers import keys_of, read_yaml
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


def printed_by(code: str, folder: Path) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What README's example prints, and where it leaves its model."""
    folder = tmp_path_factory.mktemp("readme")
    return printed_by(block("python"), folder), folder


def test_the_first_run_prints_what_readme_says(first_run: tuple[str, Path]) -> None:
    shown, printed = ([learned(line) for line in text.splitlines()] for text in (block("text"), first_run[0]))
    assert len(shown) > 3 and differences(shown, printed) == []


def learned(line: str) -> str:
    """Leave out what depends on the weights the model was born with."""
    return re.sub(r"'(loss|grad_norm)': '[^']*'", r"'\1'", line)


def test_the_three_lines_that_change_make_a_sparse_trainer(tmp_path: Path) -> None:
    assert len(re.findall(r"^\+", block("diff"), re.MULTILINE)) == 3
    old, new = sides(block("diff"))
    ast.parse(old)
    names = {"model": bert(), "args": arguments(tmp_path), "examples": sentences()}
    exec(new, names)
    assert names["trainer"].recipe == Recipe.preset("gmp_finetune")
    added = {line for line in new.splitlines() if not line.startswith("from hf_sparse import")}
    assert added - set(old.splitlines()) <= set(block("python").splitlines())


@pytest.mark.parametrize("shown", re.findall(r"```console\n\$ hf-sparse (.*?)```", COMMANDS, re.DOTALL))
def test_commands_print_what_their_page_says(
    shown: str, first_run: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(first_run[1])
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


def test_recipes_are_saved_and_loaded_as_their_page_says(first_run: tuple[str, Path]) -> None:
    assert printed_by(block("python", RECIPES), first_run[1]) == block("text", RECIPES)


def test_every_setting_is_under_all_settings() -> None:
    page = RECIPES.partition("\n## All settings\n")[2]
    shown = set(re.findall(r"\b(\w+):", page))
    assert {name for name in settings(Recipe) if name not in shown and f"`{name}`" not in page} == set()
    assert {"update_end", "learning_rate", "layer_weights"} < set(settings(Recipe))


def settings(part: type[BaseModel]) -> Iterator[str]:
    """Yield the name of every setting of a part of a recipe, those of its own parts included."""
    for name, kind in keys_of(part).items():
        yield name
        for inner in (kind, *get_args(kind)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from settings(inner)


def test_every_preset_is_in_the_table() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", RECIPES, re.MULTILINE)) == preset_names()


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))]
    found = (pair for page in pages for pair in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+) +#", page, re.M))
    named = {name for pair in found for name in pair if name}
    assert {"demo", "test", "lint"} <= named <= targets
