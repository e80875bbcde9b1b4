"""The cards of the models that the project trains are what their facts make of them."""

import json
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from hf_sparse.hub.card.card_data import Facts, facts_from_json
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
