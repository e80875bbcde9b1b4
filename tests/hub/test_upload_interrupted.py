"""Pushes that die or lose their connection: run again they end with one whole model in one commit."""

from pathlib import Path

import pytest

from tests.hub.pushing import REPO, pushed, pushing, saved
from tests.hub.server import Server
from tests.hub.server_clients import IMPATIENT, Clients

LFS = r"/lfs/[^/]+/[^/]+/\w+$"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "model")


@pytest.fixture(scope="module")
def whole(model: Path, standing_server: Server, standing_pushers: Clients) -> dict[str, bytes]:
    """The files after an uninterrupted push."""
    standing_server.reset()
    standing_pushers.output(pushing(model, packed=True))
    return standing_server.repositories[REPO].contents()


def sent(server: Server) -> list[str]:
    """Return the large files that have arrived, each as often as it was sent."""
    return sorted(request.path for request in server.asked("PUT", LFS) if request.status == 200)


def assert_whole(server: Server, whole: dict[str, bytes]) -> None:
    repository = server.repositories[REPO]
    assert repository.contents() == whole
    assert repository.titles() == ["initial commit", "Sparse model, pushed with hf_sparse"]
    assert len(sent(server)) == len(set(sent(server))) == len(repository.objects)


def test_a_push_killed_while_it_sends_goes_on(
    whole: dict[str, bytes], server: Server, pushers: Clients, model: Path
) -> None:
    block = server.block("PUT", LFS, after_bytes=500)
    running = pushers.start(pushing(model, packed=True))
    block.wait()
    # The others arrive while one is held.
    large = sum(b"\0" in content or path.endswith("safetensors") for path, content in whole.items())
    server.wait_for(lambda: len(server.repositories[REPO].objects) == large - 1)
    assert running.kill().returncode == -9
    block.abandon()
    assert server.repositories[REPO].contents() == {}
    assert pushed(pushers.output(pushing(model, packed=True)))["changed"]
    assert_whole(server, whole)


def test_a_push_killed_before_its_commit_sends_nothing_large_again(
    whole: dict[str, bytes], server: Server, pushers: Clients, model: Path
) -> None:
    block = server.block("POST", "/commit/")
    running = pushers.start(pushing(model, packed=True))
    block.wait()
    before = sent(server)
    assert running.kill().returncode == -9
    block.abandon()
    assert server.repositories[REPO].contents() == {}
    pushers.output(pushing(model, packed=True))
    assert sent(server) == before
    assert_whole(server, whole)


def test_a_push_killed_after_its_commit_is_done(
    whole: dict[str, bytes], server: Server, pushers: Clients, model: Path
) -> None:
    server.lose("POST", "/commit/")
    running = pushers.start(pushing(model, packed=True))
    # It waits before it asks again.
    server.wait_for(lambda: bool(server.asked("POST", "/commit/")))
    assert running.kill().returncode == -9
    assert not pushed(pushers.output(pushing(model, packed=True)))["changed"]
    assert_whole(server, whole)


@pytest.mark.parametrize(
    ("method", "place"),
    [
        ("POST", "repos/create"),
        ("GET", rf"/api/models/{REPO}"),
        ("POST", "validate-yaml"),
        ("POST", "preupload"),
        ("POST", "objects/batch"),
        ("PUT", LFS),
        ("POST", "/verify"),
        ("POST", "/commit/"),
    ],
)
def test_a_connection_that_is_lost_once_is_made_again(
    method: str, place: str, whole: dict[str, bytes], server: Server, pushers: Clients, model: Path
) -> None:
    server.cut(method, place, after_bytes=100)
    pushers.output(IMPATIENT + pushing(model, packed=True))
    assert [fault.times for fault in server.faults] == [0]
    assert_whole(server, whole)


@pytest.mark.parametrize("place", ["repos/create", "preupload", "/verify", "/commit/"])
def test_an_answer_that_is_lost_changes_nothing_twice(
    place: str, whole: dict[str, bytes], server: Server, pushers: Clients, model: Path
) -> None:
    server.lose("POST", place)
    pushers.output(IMPATIENT + pushing(model, packed=True))
    assert [fault.times for fault in server.faults] == [0]
    assert_whole(server, whole)
