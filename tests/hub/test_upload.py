"""After a push the Hub has one commit with all of a model and nothing else."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest
import yaml

from hf_sparse.hub import CardOptions, push
from hf_sparse.hub.card.render import is_generated
from hf_sparse.hub.upload import push_in_background
from tests.hub.pushing import REPO, pushed, pushing, saved
from tests.hub.server import Server
from tests.hub.server_clients import Clients

MODEL = {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "README.md"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "model")


def test_all_of_a_model_is_one_commit(server: Server, pushers: Clients, model: Path) -> None:
    said = pushed(pushers.output(pushing(model, packed=True, commit_message="Sparse at last")))
    repository = server.repositories[REPO]
    files = repository.contents()
    assert files.keys() >= MODEL | {"packed/config.json", "packed/packed.safetensors"}
    assert repository.titles() == ["initial commit", "Sparse at last"]
    assert said["commit"] == repository.head().sha and said["changed"]
    assert said["files"] == [[path, len(content)] for path, content in files.items()]
    assert (said["repo_id"], said["url"]) == (REPO, f"{server.url}/{REPO}")
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
        "packed/mine.txt": b"mine",
        "pictures/mine.png": b"mine",
        "model.fp16.safetensors": b"mine",
        "model_teacher.safetensors": b"mine",
        "models/model-00001-of-00002.safetensors": b"theirs",
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
    assert pushed(pushers.output(pushing(model, "alone")))["repo_id"] == "somebody/alone"
    card = server.repositories["somebody/alone"].contents()["README.md"].decode()
    assert '"somebody/alone"' in card and '"alone"' not in card


def test_a_dry_run_asks_nobody(server: Server, pushers: Clients, model: Path) -> None:
    said = pushed(pushers.output(pushing(model, dry_run=True), token=None))
    assert {path for path, _ in said["files"]} >= MODEL
    assert said["commit"] is None and said["url"] == f"{server.url}/{REPO}"
    assert server.requests == []


def test_the_token_may_be_given(server: Server, pushers: Clients, model: Path) -> None:
    from tests.hub.server import TOKEN

    pushers.output(pushing(model, token=TOKEN), token=None)
    assert server.repositories[REPO].contents().keys() >= MODEL


def test_a_card_on_the_hub_that_was_made_is_replaced(server: Server, pushers: Clients, model: Path) -> None:
    pushers.output(pushing(model, packed=True))
    said = pushed(pushers.output(pushing(model)))
    card = server.repositories[REPO].contents()["README.md"].decode()
    assert is_generated(card) and "packed/" not in card and said["notes"] == []


def test_a_card_on_the_hub_that_somebody_changed_is_kept(
    server: Server, pushers: Clients, model: Path
) -> None:
    pushers.output(pushing(model))
    repository = server.repositories[REPO]
    changed = {
        "README.md": repository.contents()["README.md"] + "\nÜber.\n".encode(),
        "pictures/latency.png": b"old",
    }
    repository.write(changed)
    said = pushed(pushers.output(pushing(model, packed=True)))
    files = repository.contents()
    assert files.items() >= changed.items() and "packed/packed.safetensors" in files
    assert said["notes"] == [
        f"README.md of {REPO} was written or changed by somebody, so it is kept; delete it there for a card "
        "of what was measured"
    ]
    assert "README.md" not in dict(said["files"]) and said["changed"]
    repository.write({"README.md": b"# Theirs\n"})
    (own := model / "README.md").write_text("# Mine\n")
    try:
        pushers.output(pushing(model))
    finally:
        own.unlink()
    assert repository.contents()["README.md"] == b"# Mine\n"


BACKGROUND = """
import json, os, shutil, tempfile
from hf_sparse.hub import push
os.mkdir("temporary"); tempfile.tempdir = os.path.abspath("temporary")
shutil.copytree({model!r}, "model")
future = push("model", {repo!r}, run_as_future=True)
shutil.rmtree("model")
print(len(os.listdir("temporary")))
try:
    print(json.dumps(vars(future.result())))
except PermissionError as error:
    print(json.dumps(str(error)))
print(os.listdir("temporary"))
"""


def test_a_push_in_the_background_needs_the_directory_no_more(
    server: Server, pushers: Clients, model: Path
) -> None:
    block = server.block("POST", "repos/create")
    running = pushers.start(BACKGROUND.format(model=str(model), repo=REPO))
    block.wait()
    block.release()
    staged, said, left = running.wait().stdout.splitlines()
    assert (staged, left) == ("1", "[]") and json.loads(said)["changed"]
    assert server.repositories[REPO].contents().keys() >= MODEL


def test_what_is_refused_in_the_background_comes_with_the_result(
    server: Server, pushers: Clients, model: Path
) -> None:
    staged, said, left = pushers.output(BACKGROUND.format(model=str(model), repo="stranger/x")).splitlines()
    assert json.loads(said).startswith("the token may not write to stranger/x") and left == "[]"


def test_a_dry_run_may_be_a_future_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_sparse.hub.card.write.draw_pictures", lambda *_: ())
    result = push(saved(tmp_path / "model"), REPO, dry_run=True, run_as_future=True)
    assert isinstance(result, Future) and result.result().commit is None


def test_the_old_names_of_a_push_work_and_name_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_sparse.hub.card.write.draw_pictures", lambda *_: ())
    with pytest.warns(FutureWarning) as seen:
        options = {"repo": REPO, "message": "x", "licence": "mit", "language": "en", "dry_run": True}
        result = push(saved(tmp_path / "model"), **options)
        assert result.repo == REPO
        assert push_in_background(tmp_path / "model", REPO, dry_run=True).result().repo_id == REPO
    said = [str(warning.message).split(" is an old name; write ") for warning in seen]
    assert sorted(said) == [
        ["Pushed.repo", "Pushed.repo_id"],
        ["push(language=...)", "card=CardOptions(language=...)"],
        ["push(licence=...)", "card=CardOptions(license=...)"],
        ["push(message=...)", "commit_message=..."],
        ["push(repo=...)", "repo_id=..."],
        ["push_in_background(...)", "push(..., run_as_future=True)"],
    ]
    assert {warning.filename for warning in seen} == {__file__}


def test_card_options_and_their_old_keywords_do_not_go_together(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning), pytest.raises(TypeError, match="write all of them in CardOptions"):
        push(tmp_path, REPO, card=CardOptions(license="mit"), licence="mit")
