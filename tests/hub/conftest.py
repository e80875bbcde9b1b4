"""Fixtures: a Hub server on this machine, and programs that use it."""

from collections.abc import Iterator

import pytest

from tests.hub.server import Server
from tests.hub.server_clients import OURS, Clients


@pytest.fixture(scope="session")
def standing_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def standing_clients(standing_server: Server) -> Iterator[Clients]:
    with Clients(standing_server.url) as clients:
        yield clients


@pytest.fixture(scope="session")
def standing_pushers(standing_server: Server) -> Iterator[Clients]:
    with Clients(standing_server.url, OURS) as clients:
        yield clients


@pytest.fixture
def server(standing_server: Server) -> Server:
    """A Hub without repositories."""
    standing_server.reset()
    return standing_server


@pytest.fixture
def clients(server: Server, standing_clients: Clients) -> Clients:
    """Runs programs whose Hub is `server`; they share their downloads over tests."""
    return standing_clients


@pytest.fixture
def pushers(server: Server, standing_pushers: Clients) -> Clients:
    """As `clients`, with hf_sparse imported before the programs start."""
    return standing_pushers
