"""The guide to the papers: every command is run as it stands, with tiny things of the names on it."""

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guides.papers import expand, make, measured, promised, read, write_data, write_models, written
from tests.guides.reading import ROOT, blocks, commands

PAGE = (ROOT / "docs" / "guides" / "paper.md").read_text(encoding="utf-8")
# How many commands each part of the page comes to.
PARTS = {
    "Prune Once for All, BERT-base": 38,
    "The same at a fraction of the cost": 12,
    "BERT-Large and DistilBERT": 11,
    "Pruning while fine-tuning, to compare with": 15,
    "Block-structured pruning, on GLUE": 48,
}


def runs_of(text: str) -> list[list[str]]:
    lines = [command for block in blocks(text) for command in commands(block.text)]
    assert not any(command.shown for command in lines), "what commands print is not looked at here"
    return [words for command in lines for words in expand(command.typed)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has what the page takes from the Hub; what commands write stays for later parts."""
    folder = tmp_path_factory.mktemp("papers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_models()
        write_data()
    return folder


@pytest.fixture
def bench(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", folder / "metrics")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
    # Trainer collects garbage after every run; all that was imported need not be looked through again.
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("part", PARTS)
def test_every_command_runs_and_leaves_the_zeros_that_its_directory_is_named_after(
    part: str, bench: None
) -> None:
    writers = {written(words): words for words in runs_of(PAGE)}
    found = runs_of(PAGE.split(f"## {part}\n")[1].split("\n## ")[0])
    assert len(found) == PARTS[part]
    for words in found:
        directory = Path(written(words))
        make(str(directory), writers)
        # A share of a tiny weight is rounded down to whole weights.
        assert measured(directory) == pytest.approx(promised(directory), abs=2e-3), directory


def test_the_parts_are_the_page_and_no_command_overwrites_another() -> None:
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == [*PARTS]
    assert {block.kind for block in blocks(PAGE)} == {"console"}
    directories = [written(words) for words in runs_of(PAGE)]
    assert len(directories) == len(set(directories)) == sum(PARTS.values())


def test_commands_stand_after_those_they_build_on() -> None:
    there = {"bert-base-uncased", "bert-large-uncased", "distilbert-base-uncased", "roberta-base"}
    for words in runs_of(PAGE):
        assert set(read(words)) <= there, words
        there.add(written(words))


def test_loops_are_those_of_a_shell() -> None:
    typed = "for a in 1 2; do for b in x; do python run.py --name $a-$b 'two words'; done; done"
    assert expand(typed) == [["python", "run.py", "--name", f"{a}-x", "two words"] for a in "12"]
    for wrong in ("for a in 1 2; do python run.py", "python run.py $nothing", "pip install x", "true"):
        with pytest.raises(AssertionError, match="no shell runs"):
            expand(wrong)


def test_names_promise_their_zeros() -> None:
    names = ["bert-base-90", "bert-base-85-sst2-int8", "bert-base-dense-sst2", "distilbert-base-uncased-90"]
    assert [promised(Path(name)) for name in names] == [0.9, 0.85, 0.0, 0.9]
