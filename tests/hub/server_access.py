"""Access rights on the Hub server, and its refusals."""

from collections.abc import Mapping
from typing import Any, Protocol

from tests.hub.server_repositories import Commit, Repository

OWNERS = ("somebody", "team")


class Refused(Exception):
    """An answer with an error, as the Hub gives it."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Hub(Protocol):
    """Where repositories are kept."""

    url: str
    repositories: dict[str, Repository]


class Exchange(Protocol):
    """A request and the way to answer it; `writer` if its token may write."""

    hub: Hub
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    token: str | None
    writer: bool

    def json(self) -> Any: ...
    def read(self) -> bytes: ...
    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None: ...


def readable(ask: Exchange, name: str) -> Repository:
    repository = ask.hub.repositories.get(name)
    if repository is None or (repository.private and ask.token is None):
        # Strangers must not learn which private ones there are.
        raise Refused(401 if ask.token is None else 404, "Repository not found", "RepoNotFound")
    return repository


def writable(ask: Exchange, name: str) -> Repository:
    repository = readable(ask, name)
    require_writer(ask, name)
    return repository


def require_writer(ask: Exchange, name: str) -> None:
    if ask.token is None:
        raise Refused(401, "Invalid username or password.")
    if not ask.writer or name.split("/")[0] not in OWNERS:
        raise Refused(403, f"You don't have the rights to write to {name}")


def commit_of(repository: Repository, revision: str) -> Commit:
    found = repository.find(revision)
    if found is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return found
