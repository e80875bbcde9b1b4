"""Damaged recipes, published arguments and facts of cards, and files of texts that are none."""

import json
from pathlib import Path

import pytest
import yaml

from hf_sparse import Recipe
from hf_sparse.data.calibration import load_texts
from hf_sparse.demo.stages import read_outcome
from hf_sparse.hub.card.card_data import facts_from_json
from hf_sparse.readers import read_yaml_file
from hf_sparse.recipe import published_arguments as recipe_arguments
from hf_sparse.recipe.recipe import preset_names
from tests.fuzz.mutations import as_text, cases, damaged, plain_errors_only

TEXTS = {
    "texts.csv": b"sentence1,sentence2,label\nhello there,good day,1\nnow,then,0\n",
    "texts.json": b'{"text": "hello there", "label": 1}\n{"text": "now", "label": 0}\n',
    "texts.txt": b"hello there\nnow\n",
}


def test_recipes_are_refused_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    presets = [Recipe.preset(name).to_dict() for name in preset_names()]
    for random in cases("recipe", 200):
        changed = damaged(random.choice(presets), random)
        content = yaml.safe_dump(changed).encode() if random.random() < 0.5 else as_text(changed, random)
        path.write_bytes(content)
        with plain_errors_only(path, rule=True):
            recipe = Recipe.from_yaml(path)
            assert Recipe.from_dict(recipe.to_dict()) == recipe and recipe.digest()
            for part in (recipe.sparsity and recipe.sparsity.schedule, recipe.quantization):
                if part is not None:
                    # Of a run's length, and not of a file.
                    with plain_errors_only("", rule=True):
                        part.resolve(100)


def test_so_are_published_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in preset_names() if (recipe_arguments._FOLDER / f"{name}.yaml").is_file())
    published = read_yaml_file(recipe_arguments._FOLDER / f"{name}.yaml")
    monkeypatch.setattr(recipe_arguments, "_FOLDER", tmp_path)
    for random in cases("arguments", 100):
        (tmp_path / f"{name}.yaml").write_bytes(as_text(damaged(published, random), random))
        with plain_errors_only(f"{name}.yaml"):
            recipe_arguments._read(name)


@pytest.mark.parametrize("name", TEXTS)
def test_so_are_files_of_texts(name: str, tmp_path: Path) -> None:
    for number, random in enumerate(cases(name, 8)):
        content = bytearray(TEXTS[name])
        for _ in range(random.randrange(1, 4)):
            position = random.randrange(len(content))
            content[position : position + random.randrange(3)] = random.choice(
                (b"\xff", b"\0", b'"', b"[", b"", b"\r", b"{}\n", b"9" * 400)
            )
        # `datasets` keeps what it has read of a file of that name.
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(content)
        with plain_errors_only(path):
            load_texts(str(path), samples=4)


def test_a_stage_whose_record_is_damaged_is_made_again(tmp_path: Path) -> None:
    outcome = {"name": "a", "fingerprint": "b", "recipe": {}, "training": {}, "log": [], "sparsity": 0.5}
    for random in cases("stage", 50):
        (tmp_path / "stage.json").write_bytes(as_text(damaged(outcome, random), random))
        assert read_outcome(tmp_path) is None


def test_facts_of_a_card_are_refused_in_plain_words() -> None:
    for random in cases("facts", 50):
        text = as_text(damaged({"repo": "a/b", "zeros": {}, "files": [json.loads("{}")]}, random), random)
        with plain_errors_only("facts of a card"):
            facts_from_json(text.decode(errors="replace"))
