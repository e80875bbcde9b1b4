"""The guides do what they say: every block of every page is run, in the order of the page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from transformers import set_seed
from typer.main import get_command

from hf_sparse.cli.main import app
from hf_sparse.readers import keys_of
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.sparsity.methods import METHODS
from tests.guides.comparing import differences
from tests.guides.reading import PAGES, ROOT, blocks, commands, sides
from tests.guides.running import Reader

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = [page.stem for page in PAGES]
MOST_LINES = 130
# Every command of two papers, of models far too large: test_paper_guide.py runs it with small ones.
PAPER = "paper"
# A method of every kind; the commands of two papers.
LONGER = {"add_a_method": 260, PAPER: 220}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty directory to work in; methods that a page adds are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def text_of(name: str) -> str:
    return (ROOT / "docs" / "guides" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if name != PAPER])
def test_every_block_runs_and_prints_what_the_page_shows(name: str, bench: None) -> None:
    set_seed(0)
    reader = Reader(f"docs/guides/{name}.md")
    found = blocks(text_of(name))
    assert found
    for block in found:
        reader.follow(block)


def test_there_is_a_guide_for_every_errand() -> None:
    assert NAMES == [
        "adapters",
        "add_a_method",
        "deploy",
        "moving",
        "other_trainers",
        "paper",
        "prune",
        "publish",
        "quantize",
        "serve",
        "teacher_cache",
        "transfer",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_is_one_page_that_readme_leads_to(name: str) -> None:
    assert f"(docs/guides/{name}.md)" in README
    assert len(text_of(name).splitlines()) <= LONGER.get(name, MOST_LINES)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text_of(name))
    home = ROOT / "docs" / "guides"
    for file, heading in links:
        if file.startswith("https://"):
            continue
        target = home / file if file else home / f"{name}.md"
        assert target.is_file(), file
        assert not heading or heading in headings(target), f"{file}#{heading}"


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line).lower().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`((?:sparsity|distillation|quantization)\.[\w.]+)", text_of(name))
    assert [setting for setting in named if not exists(setting)] == []


def exists(setting: str) -> bool:
    part: type[BaseModel] | None = Recipe
    for word in setting.rstrip(".").split("."):
        if part is None or word not in (keys := keys_of(part)):
            return False
        kinds = get_args(keys[word]) or (keys[word],)
        part = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_the_text_exist_with_their_options(name: str) -> None:
    known = get_command(app).commands
    for words in map(str.split, re.findall(r"`hf-sparse ([^`]+)`", text_of(name))):
        options = {option for parameter in known[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_a_setting_that_does_not_exist_is_noticed() -> None:
    assert exists("sparsity.schedule.final") and exists("distillation.hidden.layers")
    assert not exists("sparsity.schedule.end") and not exists("sparsity.pattern.rows")


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nraise OSError\n```\n",
        "```bash\nls\n```\n",
        "```\nls\n```\n",
        "```yaml\nsparsity: {method: none}\n```\n",
        "```diff\n-Trainer(\n+SparseTrainer()\n```\n",
        "```diff\n-Trainer()\n+SparseTrainer()\n```\n",
        "```console\n$ ls\n```\n",
        "```console\n$ pip install torch\n```\n",
        "```console\n$ hf-sparse inspect nowhere\n```\n",
        "```console\n$ hf-sparse --version\n0.0.0\n```\n",
    ],
)
def test_a_page_that_does_something_else_is_noticed(page: str, bench: None) -> None:
    (block, *rest) = blocks(page)
    reader = Reader("page.md")
    with pytest.raises(AssertionError, match=r"page\.md:\d"):
        for part in (block, *rest):
            reader.follow(part)


def test_an_open_fence_is_noticed() -> None:
    with pytest.raises(ValueError, match="left open"):
        blocks("```python\nprint(1)\n")


def test_sizes_may_differ_a_little_and_nothing_else_may() -> None:
    shown = ["encoder  0.50 MB  7.9x", "85.0% zeros of 12 weights", "masks 0123456789abcdef"]
    assert differences(shown, ["encoder 0.51 MB   7.8x", shown[1], "masks fedcba9876543210"]) == []
    assert len(differences(shown, ["encoder 0.70 MB 7.9x", "85.1% zeros of 12 weights", "masks 0"])) == 3
    assert len(differences(shown, [shown[0], "85.0% zeros of 13 weights", shown[2]])) == 1


def test_dots_stand_for_any_lines() -> None:
    assert differences(["a", "...", "d"], ["a", "b", "c", "d"]) == []
    assert differences(["a", "..."], ["a", "b"]) == []
    assert differences(["a", "...", "e"], ["a", "b"]) != []


def test_a_console_block_is_its_commands() -> None:
    first, second = commands("$ hf-sparse pack a \\\n  b\n$ hf-sparse inspect b\n1\n2\n")
    assert first.typed.split() == ["hf-sparse", "pack", "a", "b"] and first.shown == []
    assert second.shown == ["1", "2"]


def test_a_diff_has_two_sides() -> None:
    assert sides(" f(\n-    a,\n+    b,\n )\n") == ("f(\n    a,\n)", "f(\n    b,\n)")
