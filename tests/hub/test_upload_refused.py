"""Errors of a push: one sentence with the way out each; temporary ones are retried."""

from pathlib import Path

import pytest

from tests.hub.pushing import REPO, pushing, saved
from tests.hub.server import READER, TOKEN, Server
from tests.hub.server_clients import IMPATIENT, Clients

LFS = r"/lfs/[^/]+/[^/]+/\w+$"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "model")


def refused(pushers: Clients, program: str, token: str | None = TOKEN, **variables: str) -> str:
    """Return the kind of the error that a program ends with, and its text."""
    ended = pushers.run(IMPATIENT + program, token, **variables)
    assert ended.returncode == 1 and ended.stdout == ""
    return ended.stderr.splitlines()[-1].removeprefix("huggingface_hub.errors.")


def test_nobody_is_logged_in(server: Server, pushers: Clients, model: Path) -> None:
    assert refused(pushers, pushing(model), token=None) == (
        "PermissionError: nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN"
    )
    assert server.requests == []


@pytest.mark.parametrize("repo", [REPO, "alone"])
def test_the_hub_does_not_know_the_token(repo: str, server: Server, pushers: Clients, model: Path) -> None:
    assert refused(pushers, pushing(model, repo), token="hf_unknown") == (
        "PermissionError: the Hub does not accept the token; run `hf auth login`, or set HF_TOKEN"
    )
    assert server.repositories == {}


@pytest.mark.parametrize(
    ("repo", "token"), [(REPO, READER), ("stranger/sparse", TOKEN)], ids=["a reader", "a stranger"]
)
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_the_token_may_not_write(
    there: bool, repo: str, token: str, server: Server, pushers: Clients, model: Path
) -> None:
    if there:
        server.create(repo)
    assert refused(pushers, pushing(model, repo), token) == (
        f"PermissionError: the token may not write to {repo}; take one that may "
        f"({server.url}/settings/tokens) or push to a name of your own"
    )
    assert not there or server.repositories[repo].contents() == {}


@pytest.mark.parametrize("name", ["a/b/c", "somebody/", "some body/x", "x" * 97, "a--b", "../up"])
def test_a_name_the_hub_does_not_take_is_refused_before_any_work(
    name: str, server: Server, pushers: Clients, tmp_path: Path
) -> None:
    said = refused(pushers, pushing(tmp_path / "missing", name))
    assert said.startswith(f"ValueError: {name!r} is not a name for a model on the Hub; write OWNER/NAME")
    assert server.requests == []


def test_somebody_else_commits_in_between(server: Server, pushers: Clients, model: Path) -> None:
    block = server.block("POST", "/commit/")
    running = pushers.start(pushing(model))
    block.wait()
    server.repositories[REPO].write({"notes.md": b"mine"})
    block.release()
    ended = running.wait()
    assert ended.stderr.splitlines()[-1] == (
        f"RuntimeError: {REPO} was changed by somebody else in the meantime, and not by this push; run it "
        "again"
    )
    assert server.repositories[REPO].contents() == {"notes.md": b"mine"}
    pushers.output(pushing(model))
    assert server.repositories[REPO].contents().keys() > {"notes.md", "model.safetensors"}


def test_a_public_repository_does_not_become_private(server: Server, pushers: Clients, model: Path) -> None:
    server.create(REPO)
    assert refused(pushers, pushing(model, private=True)) == (
        f"ValueError: {REPO} is there already and public; make it private in its settings on the Hub, or "
        "push to another name"
    )
    assert server.repositories[REPO].contents() == {}


@pytest.mark.parametrize(
    ("method", "place"),
    [("POST", "repos/create"), ("PUT", LFS), ("POST", "/commit/")],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_busy_is_asked_again(
    status: int, method: str, place: str, server: Server, pushers: Clients, model: Path
) -> None:
    server.fail(method, place, status, times=2, retry_after="1")
    pushers.output(IMPATIENT + pushing(model))
    assert [request.status for request in server.asked(method, place)][:3] == [status, status, 200]
    assert len(server.repositories[REPO].titles()) == 2


def test_what_is_waited_for_is_what_the_hub_says(server: Server, pushers: Clients, model: Path) -> None:
    server.fail("POST", "/commit/", 429, retry_after="30")
    noted = "import time; time.sleep = lambda seconds: print('waited', seconds)\n"
    assert pushers.output(noted + pushing(model)).splitlines()[0] == "waited 30"


def test_a_long_wait_is_told(server: Server, pushers: Clients, model: Path) -> None:
    server.fail("POST", "repos/create", 429, retry_after="300")
    assert refused(pushers, pushing(model)) == (
        "ConnectionError: the Hub takes no more requests for now; run the same command again in 300 seconds"
    )
    assert len(server.requests) == 1


@pytest.mark.parametrize("place", ["/whoami-v2", "/resolve/"])
def test_it_is_asked_again_for_names_and_cards_too(
    place: str, server: Server, pushers: Clients, model: Path
) -> None:
    server.create("somebody/alone").write({"README.md": b"# Mine"})
    server.fail("GET", place, 503, times=2)
    pushers.output(IMPATIENT + pushing(model, "alone"))
    assert server.repositories["somebody/alone"].contents()["README.md"] == b"# Mine"
    assert server.repositories["somebody/alone"].contents().keys() > {"model.safetensors"}


@pytest.mark.parametrize("place", ["repos/create", "/commit/"])
def test_a_hub_that_stays_ill_is_left_alone(
    place: str, server: Server, pushers: Clients, model: Path
) -> None:
    server.fail("POST", place, 503, times=100, message="maintenance")
    assert refused(pushers, pushing(model)) == (
        "ConnectionError: the Hub fails (503 maintenance); run the same command again; files that "
        "have arrived are not sent twice"
    )
    assert len(server.asked("POST", place)) == 3
    assert not server.repositories or server.repositories[REPO].contents() == {}


def test_an_upload_that_fails_again_and_again_is_told_likewise(
    server: Server, pushers: Clients, model: Path
) -> None:
    server.fail("PUT", LFS, 500, times=100)
    assert refused(pushers, pushing(model, packed=True)).startswith("ConnectionError: the Hub fails (500")
    assert server.repositories[REPO].contents() == {}


def test_something_else_that_answers_in_place_of_the_hub(
    server: Server, pushers: Clients, model: Path
) -> None:
    server.fail("POST", "validate-yaml", 502, 100, b"<html>Bad Gateway</html>", content_type="text/html")
    said = refused(pushers, pushing(model))
    assert said.startswith(f"ConnectionError: {server.url} does not answer as a Hub does (")


def test_no_hub_can_be_reached(server: Server, pushers: Clients, model: Path) -> None:
    elsewhere = "import huggingface_hub.constants as c; c.ENDPOINT = 'http://127.0.0.1:9'\n"
    said = refused(pushers, elsewhere + pushing(model))
    assert said.startswith("ConnectionError: http://127.0.0.1:9 cannot be reached (")
    assert said.endswith("); run the same command again; files that have arrived are not sent twice")


def test_offline_means_offline(server: Server, pushers: Clients, model: Path) -> None:
    offline = "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = True\n"
    assert refused(pushers, offline + pushing(model)) == (
        "ValueError: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"
    )


def test_a_card_the_hub_does_not_take(server: Server, pushers: Clients, model: Path) -> None:
    broken = """
import hf_sparse.hub.push_directory as staging
def broken(directory, staged, repo, **_):
    (staged / 'README.md').write_text('---\\na: [\\n---\\n')
staging.write_card = broken
"""
    program = pushing(model).replace("\nfrom hf_sparse.hub import", f"{broken}\nfrom hf_sparse.hub import")
    assert "Invalid metadata in README.md" in pushers.run(program).stderr
    assert server.repositories[REPO].contents() == {}
