"""What is on the Hub after a push: one commit with all of a model and nothing else."""

from pathlib import Path

import pytest
import yaml

from tests.hub.pushing import REPO, pushed, pushing, saved
from tests.hub.server import Server
from tests.hub.server_clients import Clients

MODEL = {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "README.md"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "model")


def test_all_of_a_model_is_one_commit(server: Server, pushers: Clients, model: Path) -> None:
    said = pushed(pushers.output(pushing(model, packed=True, message="Sparse at last")))
    repository = server.repositories[REPO]
    files = repository.contents()
    assert files.keys() >= MODEL | {"packed/config.json", "packed/packed.safetensors"}
    assert repository.titles() == ["initial commit", "Sparse at last"]
    assert said["commit"] == repository.head().sha and said["changed"]
    assert said["files"] == [[path, len(content)] for path, content in files.items()]
    assert (said["repo"], said["url"]) == (REPO, f"{server.url}/{REPO}")
    assert yaml.safe_load(files["recipe.yaml"])["quantization"]["observer"] == "min_max"


def test_the_same_again_is_no_commit(server: Server, pushers: Clients, model: Path) -> None:
    first = pushed(pushers.output(pushing(model)))
    again = pushed(pushers.output(pushing(model)))
    assert again == first | {"changed": False}
    assert len(server.asked("POST", "/commit/")) == 1
    assert len(server.repositories[REPO].titles()) == 2


def test_what_a_push_left_goes_and_what_others_put_there_stays(
    server: Server, pushers: Clients, model: Path
) -> None:
    pushers.output(pushing(model, packed=True))
    others = {
        "notes.md": b"mine",
        "packed/deep/notes.md": b"mine",
        "models/model-1.safetensors": b"theirs",
        "last-checkpoint/model.safetensors": b"of a run",
    }
    left = {
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
        "hf_sparse_state.safetensors": b"old",
        "training_args.bin": b"old",
    }
    server.repositories[REPO].write(others | left)
    pushers.output(pushing(model))
    files = server.repositories[REPO].contents()
    assert files.keys() & (others.keys() | left.keys() | {"packed/packed.safetensors"}) == others.keys()
    assert server.repositories[REPO].titles()[2:] == ["by hand", "Sparse model, pushed with hf_sparse"]


def test_a_gitignore_on_the_hub_leaves_nothing_out(server: Server, pushers: Clients, model: Path) -> None:
    server.create(REPO).write({".gitignore": b"*.safetensors\nrecipe.yaml\n"})
    pushers.output(pushing(model))
    assert server.repositories[REPO].contents().keys() >= MODEL


def test_a_branch_is_made_where_there_is_none(server: Server, pushers: Clients, model: Path) -> None:
    pushed(pushers.output(pushing(model, revision="v1/rc")))
    repository = server.repositories[REPO]
    assert repository.contents() == {} and repository.contents("v1/rc").keys() >= MODEL
    assert not pushed(pushers.output(pushing(model, revision="v1/rc")))["changed"]


def test_a_new_one_can_be_private_and_of_an_organization(
    server: Server, pushers: Clients, model: Path
) -> None:
    pushers.output(pushing(model, "team/hidden", private=True))
    assert server.repositories["team/hidden"].private
    pushers.output(pushing(model, "team/hidden", private=True))


def test_a_name_alone_is_one_of_the_users_own(server: Server, pushers: Clients, model: Path) -> None:
    assert pushed(pushers.output(pushing(model, "alone")))["repo"] == "somebody/alone"


def test_a_dry_run_asks_nobody(server: Server, pushers: Clients, model: Path) -> None:
    said = pushed(pushers.output(pushing(model, dry_run=True), token=None))
    assert {path for path, _ in said["files"]} >= MODEL
    assert said["commit"] is None and said["url"] == f"{server.url}/{REPO}"
    assert server.requests == []


def test_the_token_may_be_given(server: Server, pushers: Clients, model: Path) -> None:
    from tests.hub.server import TOKEN

    pushers.output(pushing(model, token=TOKEN), token=None)
    assert server.repositories[REPO].contents().keys() >= MODEL
