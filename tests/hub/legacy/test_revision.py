"""A checkpoint on the Hub is rescued as it was at a branch, tag or commit, by those who may see it."""

from pathlib import Path

from tests.hub.legacy.test_building import pruned
from tests.hub.legacy.written import config_of, wide, write
from tests.hub.server import TOKEN, Server
from tests.hub.server_clients import Clients
from tests.hub.server_repositories import Repository

REPO, PRIVATE = "somebody/old", "somebody/private"


def rescuing(repo: str = REPO, **named: str) -> str:
    """Return a program that prints how sparse a checkpoint is."""
    return f"""
from hf_sparse.hub import load_legacy
print(load_legacy({repo!r}, **{named!r}).sparsity)
"""


def files(directory: Path, sparse: bool) -> dict[str, bytes]:
    model = wide()
    write(directory, pruned(model) if sparse else model.state_dict(), config_of(model))
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_the_revision_asked_for_is_rescued(server: Server, pushers: Clients, tmp_path: Path) -> None:
    repository = server.repositories[REPO] = Repository(REPO)
    earlier = repository.write(files(tmp_path / "sparse", sparse=True)).sha
    repository.write(files(tmp_path / "dense", sparse=False))
    assert "is neither sparse nor in a layout of the past" in pushers.run(rescuing()).stderr
    command = (
        f"from hf_sparse.cli.main import app; app(['rescue', {REPO!r}, 'out', '--model-revision', {{!r}}])"
    )
    assert "Zeros: 90.0% of 12 weights" in pushers.output(command.format(earlier))


def test_a_revision_that_is_not_there_is_named(server: Server, pushers: Clients, tmp_path: Path) -> None:
    server.repositories[REPO] = Repository(REPO)
    missing = pushers.run(rescuing(revision="nowhere"))
    assert missing.returncode == 1 and f"{REPO} lacks config.json at nowhere" in missing.stderr


def test_a_private_one_needs_the_token(server: Server, pushers: Clients, tmp_path: Path) -> None:
    repository = server.repositories[PRIVATE] = Repository(PRIVATE, private=True)
    repository.write(files(tmp_path, sparse=True))
    assert "lacks config.json" in pushers.run(rescuing(PRIVATE), token=None).stderr
    assert pushers.output(rescuing(PRIVATE, token=TOKEN), token=None).startswith("0.9")
