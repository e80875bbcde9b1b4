"""The cards of the models that the project trains are what their facts make of them."""

import json
import shutil
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from benchmarks import model_cards
from hf_sparse.hub.card.card_data import Facts, facts_from_json
from hf_sparse.hub.card.options import CardOptions
from hf_sparse.hub.card.render import render

CARDS = Path(__file__).parents[3] / "model_cards"
FOLDERS = sorted(path for path in CARDS.iterdir() if path.is_dir())


def test_there_is_a_card() -> None:
    assert FOLDERS != []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_card_is_what_its_facts_make_of_it(folder: Path) -> None:
    facts = facts_from_json((folder / "facts.json").read_text(encoding="utf-8"))
    written = (folder / "README.md").read_text(encoding="utf-8")
    assert str(render(facts)) == written
    assert facts.name == folder.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_pictures_beside_a_card_are_those_it_shows(folder: Path) -> None:
    facts = facts_from_json((folder / "facts.json").read_text(encoding="utf-8"))
    assert {path.name for path in (folder / "pictures").iterdir()} == set(facts.pictures)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"(pictures/{picture})" in text for picture in facts.pictures)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_facts_under_their_old_names_are_read(folder: Path) -> None:
    text = (folder / "facts.json").read_text(encoding="utf-8")
    old = text.replace('"repo_id":', '"repo":').replace('"license":', '"licence":')
    assert old != text and facts_from_json(old) == facts_from_json(text)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_facts_of_a_version_that_knew_fewer_are_read(folder: Path) -> None:
    known = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    required = {field.name for field in fields(Facts) if field.default is MISSING}
    assert required == {"repo_id", "architecture", "stock", "parameters", "zeros", "files"}
    few = facts_from_json(json.dumps({name: known[name] for name in required}))
    assert (few.parameters, few.license, few.stages) == (known["parameters"], None, ())
    assert f"# {folder.name}" in str(render(few))


def test_committed_cards_are_written_again_from_their_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in FOLDERS:
        shutil.copytree(folder, tmp_path / folder.name)
        (tmp_path / folder.name / "README.md").write_text("# As it was before\n")
    monkeypatch.setattr(model_cards, "CARDS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["model_cards.py"])
    model_cards.main()
    assert capsys.readouterr().out.split() == [str(tmp_path / folder.name) for folder in FOLDERS]
    for folder in FOLDERS:
        for name in ("README.md", "facts.json"):
            assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes()


def test_old_options_are_read_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def written(directory: Path, repo_id: str, card: CardOptions) -> Path:
        given.update(directory=directory, repo_id=repo_id, license=card.license)
        return directory

    monkeypatch.setattr(model_cards, "write", written)
    words = ["model_cards.py", "--demo", str(tmp_path), "--repo", "me/model", "--licence=mit"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.warns(FutureWarning, match="is an old name; write --"):
        model_cards.main()
    assert given == {"directory": tmp_path / "task-int8", "repo_id": "me/model", "license": "mit"}
