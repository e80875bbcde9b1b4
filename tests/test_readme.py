"""README's examples run, with the result it shows."""

import re
import subprocess
import sys
from pathlib import Path

from hf_sparse.reading import read_yaml
from hf_sparse.recipe import Recipe, preset_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_the_ten_lines_print_what_readme_says(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", block("python")], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == block("text").strip()


def test_the_recipe_in_full_is_the_preset_prune_ofa_90() -> None:
    assert Recipe.from_dict(read_yaml(block("yaml"))) == Recipe.preset("prune_ofa_90")


def test_every_preset_is_in_the_table() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == preset_names()


def test_every_make_target_that_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)\b", README)) - targets == set()
