"""`hf-sparse push`, whose Hub is a server on this machine."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import lines, quantized, refused
from tests.hub.server import TOKEN, Server
from tests.hub.server_clients import OURS, Clients, Ended


@pytest.fixture(scope="module")
def server() -> Server:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def clients(server: Server) -> Clients:
    with Clients(server.url, OURS) as clients:
        yield clients


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "model"
    quantized(directory)
    return directory


def typed(clients: Clients, *words: object, token: str | None = TOKEN) -> Ended:
    """Type a command line."""
    command = ["hf-sparse", "push", *map(str, words)]
    program = f"import sys; sys.argv = {command!r}\nfrom hf_sparse.cli.main import main\nmain()"
    return clients.run(program, token)


def test_a_model_is_pushed_and_shown(server: Server, clients: Clients, model: Path) -> None:
    ended = typed(clients, model, "somebody/model", "--packed", "--commit-message", "Here it is")
    repository = server.repositories["somebody/model"]
    assert ended.returncode == 0 and repository.titles() == ["initial commit", "Here it is"]
    table = ended.stdout.splitlines()
    paths = list(repository.contents())
    assert [line.split()[0] for line in table[2 : 2 + len(paths)]] == paths
    sha = repository.head().sha[:7]
    assert table[-1] == f"Pushed: {server.url}/somebody/model ({sha})"
    again = typed(clients, model, "somebody/model", "--packed")
    assert again.stdout.splitlines()[-1] == (
        f"All of it is there already, nothing was changed: {server.url}/somebody/model"
    )


def test_json_is_alone_on_the_output(server: Server, clients: Clients, model: Path) -> None:
    said = json.loads(typed(clients, model, "somebody/json", "--private", "--json").stdout)
    repository = server.repositories["somebody/json"]
    assert repository.private and said["commit"] == repository.head().sha
    assert {file["path"]: file["bytes"] for file in said["files"]} == {
        path: len(content) for path, content in repository.contents().items()
    }


def test_a_branch_can_be_chosen(server: Server, clients: Clients, model: Path) -> None:
    assert typed(clients, model, "somebody/branched", "--revision", "next").returncode == 0
    assert server.repositories["somebody/branched"].contents() == {}
    assert "config.json" in server.repositories["somebody/branched"].contents("next")


def test_a_refusal_is_one_line(clients: Clients, model: Path) -> None:
    ended = typed(clients, model, "stranger/model")
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.splitlines()[-1].startswith("hf-sparse: the token may not write to stranger/model; ")
    assert "Traceback" not in ended.stderr


def test_nobody_is_logged_in(clients: Clients, model: Path) -> None:
    ended = typed(clients, model, "somebody/model", token=None)
    assert ended.returncode == 1
    assert ended.stderr == (
        "hf-sparse: nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN\n"
    )


def test_a_dry_run_lists_files_and_sizes(model: Path) -> None:
    table = lines("push", model, "somebody/dry", "--dry-run", "--packed")
    assert table[0].split() == ["file", "size"]
    assert [line.split()[0] for line in table[2:10]] == [
        "README.md",
        "config.json",
        "model.safetensors",
        "packed/config.json",
        "packed/packed.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert table[-2].startswith("8 files ")
    assert table[-1] == "Nothing was sent; it would be https://huggingface.co/somebody/dry"


def test_a_dry_run_as_json(model: Path) -> None:
    (line,) = lines("push", model, "somebody/dry", "--dry-run", "--json")
    said = json.loads(line)
    assert said["commit"] is None and len(said["files"]) == 6


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert refused("push", tmp_path, "somebody/model", "--dry-run") == (
        f"{tmp_path} holds no model: config.json is missing; name the directory of one"
    )


def test_a_name_the_hub_does_not_take_is_refused(model: Path) -> None:
    said = refused("push", model, "a/b/c", "--dry-run")
    assert said.startswith("'a/b/c' is not a name for a model on the Hub; write OWNER/NAME")
