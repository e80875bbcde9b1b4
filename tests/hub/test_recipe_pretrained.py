"""Recipes in directories and repositories, of their own and beside the models that they trained."""

import json
import shutil
from pathlib import Path

import pytest

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.run_record import RECORD
from hf_sparse.checkpoint.sidecar import SIDECAR
from hf_sparse.recipe.saved import _HOLDERS, RECIPE_FILE
from tests.hub.server import READER, Server
from tests.hub.server_clients import Clients
from tests.support.tiny import arguments, bert, pruning, sentences

RECIPE = pruning("quantization={}")
HEAD = "import os, sys, shutil\nfrom hf_sparse import Recipe\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a trainer saves, with a checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    training = arguments(folder, max_steps=2, save_strategy="steps", save_steps=2)
    trainer = SparseTrainer(bert(), training, train_dataset=sentences(), recipe=RECIPE)
    trainer.train()
    trainer.save_model()
    return folder


def printed(name: str, options: str = "") -> str:
    return f"{HEAD}print(Recipe.from_pretrained({name!r}{options}).digest())"


def test_the_files_are_those_that_training_writes() -> None:
    assert list(_HOLDERS) == [RECIPE_FILE, SIDECAR, RECORD]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = RECIPE.save_pretrained(tmp_path / "new" / "recipe")
    assert path == tmp_path / "new" / "recipe" / "recipe.yaml"
    assert Recipe.from_pretrained(path.parent) == RECIPE
    Recipe().save_pretrained(path.parent)
    assert Recipe.from_pretrained(str(path.parent)) == Recipe()


@pytest.mark.parametrize("left_out", ["", SIDECAR, RECORD])
def test_a_model_holds_the_recipe_that_it_was_trained_by(left_out: str, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    if left_out:
        (tmp_path / "model" / left_out).unlink()
    assert Recipe.from_pretrained(tmp_path / "model") == RECIPE
    assert Recipe.from_pretrained(model, subfolder="checkpoint-2") == RECIPE


def test_a_recipe_of_its_own_comes_before_that_of_the_run(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    Recipe().save_pretrained(tmp_path / "model")
    assert Recipe.from_pretrained(tmp_path / "model") == Recipe()


def test_what_is_not_there_is_named_with_the_way_out(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"holds no recipe, none of recipe\.yaml, .*; for a preset write Recipe"
    ):
        Recipe.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="model/missing holds no recipe"):
        Recipe.from_pretrained(model, subfolder="missing")
    with pytest.raises(ValueError, match="neither a directory nor a name on the Hub"):
        Recipe.from_pretrained(str(tmp_path / "missing"))
    RECIPE.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.yaml is a file; read it with Recipe\.from_yaml"):
        Recipe.from_pretrained(tmp_path / "recipe.yaml")


def test_damaged_files_are_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"recipe": {"sparsty": None}}))
    with pytest.raises(ValueError, match=f"{RECORD}: sparsty is not a recipe key; did you mean sparsity"):
        Recipe.from_pretrained(tmp_path)
    (tmp_path / RECORD).write_text("[]")
    with pytest.raises(ValueError, match=f"{RECORD} is not a valid record of a run .*; restore it"):
        Recipe.from_pretrained(tmp_path)
    (tmp_path / SIDECAR).write_bytes((model / SIDECAR).read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{SIDECAR} is damaged .*; restore it"):
        Recipe.from_pretrained(tmp_path)


def test_a_recipe_goes_to_the_hub_and_comes_back(pushers: Clients, server: Server, tmp_path: Path) -> None:
    recipe = f"Recipe.from_dict({RECIPE.to_dict()!r})"
    options = "push_to_hub=True, repo_id='somebody/recipe', private=True"
    pushers.output(
        f"{HEAD}{recipe}.save_pretrained({str(tmp_path)!r}, {options})\n"
        f"Recipe().save_pretrained({str(tmp_path)!r}, {options}, revision='none', commit_message='Nothing')"
    )
    repository = server.repositories["somebody/recipe"]
    assert repository.private and list(repository.contents()) == ["recipe.yaml"]
    assert repository.head("none").title == "Nothing" and repository.head().title == "Add recipe.yaml"
    assert pushers.output(printed("somebody/recipe")).split()[-1] == RECIPE.digest()
    branch = pushers.output(printed("somebody/recipe", ", revision='none'")).split()[-1]
    assert branch == Recipe().digest()


def test_the_recipe_of_a_model_on_the_hub_is_read(pushers: Clients, server: Server, model: Path) -> None:
    repository = server.create("somebody/model")
    repository.write({f"checkpoint-2/{RECORD}": (model / RECORD).read_bytes()})
    repository.write({SIDECAR: (model / SIDECAR).read_bytes()})
    assert pushers.output(printed("somebody/model")).split()[-1] == RECIPE.digest()
    inner = printed("somebody/model", ", subfolder='checkpoint-2'")
    assert pushers.output(inner).split()[-1] == RECIPE.digest()
    offline = printed("somebody/model", ", subfolder='checkpoint-2', local_files_only=True")
    assert pushers.output(offline).split()[-1] == RECIPE.digest()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("somebody/missing", "", "the Hub refuses somebody/missing (404"),
        ("somebody/empty", "", "somebody/empty holds no recipe, none of recipe.yaml"),
        ("somebody/empty", ", revision='x'", "somebody/empty on the Hub lacks that revision; name a branch"),
        (
            "somebody/new",
            ", local_files_only=True",
            "the Hub cannot be asked for somebody/new, and it was not",
        ),
    ],
)
def test_what_the_hub_lacks_is_named(
    name: str, options: str, sentence: str, pushers: Clients, server: Server
) -> None:
    server.create("somebody/empty")
    assert sentence in pushers.start(printed(name, options)).wait().stderr


def test_a_token_that_may_not_write_is_named(pushers: Clients, server: Server, tmp_path: Path) -> None:
    program = f"Recipe().save_pretrained({str(tmp_path)!r}, push_to_hub=True, repo_id='somebody/x')"
    ended = pushers.start(HEAD + program, token=READER).wait()
    assert "OSError: the Hub refuses somebody/x (403" in ended.stderr and "`hf auth login`" in ended.stderr
