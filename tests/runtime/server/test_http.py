"""The application over HTTP: what it answers and refuses, to several clients at once and after one left."""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from hf_sparse.runtime.server import app
from hf_sparse.runtime.server.app import make_app
from hf_sparse.runtime.server.batches import Batches
from hf_sparse.runtime.server.served_model import Served

fastapi = pytest.importorskip("fastapi")

PATHS = {"embeddings": ("/v1/embeddings", "input"), "predict": ("/predict", "inputs")}


def labels(texts: list[str]) -> list[Any]:
    return [[{"label": text, "score": 1.0}] for text in texts]


def vectors(texts: list[str]) -> list[Any]:
    return [(np.full(2, len(text), np.float32), 1) for text in texts]


@contextmanager
def client(task: str = "predict", answer: Any = None) -> Iterator[Any]:
    """Return a client of an application that answers batches of 2 texts, and lets 3 wait."""
    from fastapi.testclient import TestClient

    served = Served("m", task, answer or (labels if task == "predict" else vectors))
    made = make_app(served, Batches(served.answer, most=2, waiting=3))
    with TestClient(made, raise_server_exceptions=False) as entered:
        yield entered


@pytest.mark.parametrize("task", PATHS)
def test_texts_are_answered(task: str) -> None:
    path, key = PATHS[task]
    with client(task) as asked:
        assert asked.get("/health").json() == {"status": "ok", "task": task, "waiting": 0}
        assert asked.get("/v1/models").json()["data"][0]["id"] == "m"
        found = asked.post(path, json={key: ["a", "bb"]})
        assert found.status_code == 200
        if task == "predict":
            assert found.json() == [[{"label": "a", "score": 1.0}], [{"label": "bb", "score": 1.0}]]
        else:
            assert [row["embedding"] for row in found.json()["data"]] == [[1, 1], [2, 2]]
        other = next(path for name, (path, _) in PATHS.items() if name != task)
        assert asked.post(other, json={}).status_code == 404


HINT = 'send {"inputs": "a text"}, or a list of texts there'
REFUSED = {
    "no texts": (b'{"inputs": []}', 422, HINT),
    "no text": (b'{"inputs": ""}', 422, HINT),
    "numbers": (b'{"inputs": [1, 2]}', 422, HINT),
    "another key": (b'{"input": "a"}', 422, "body.inputs: Field required; send"),
    "no JSON": (b'{"inputs": ', 422, "JSON decode error; send"),
    "no object": (b"[]", 422, HINT),
    "empty": (b"", 422, HINT),
    "many texts": (b'{"inputs": ["a", "b", "c", "d"]}', 413, "4 texts are more than the 3"),
    "much text": (b'{"inputs": "' + b"a" * 99 + b'"}', 413, "more than 99 bytes; send fewer or shorter"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_request_beyond_the_rules_is_refused_with_a_sentence(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MOST_BYTES", 99)
    body, status, sentence = REFUSED[why]
    with client() as asked:
        found = asked.post("/predict", content=body, headers={"content-type": "application/json"})
        assert found.status_code == status and sentence in found.json()["detail"]
        # In pieces a body has no length that is known beforehand.
        pieces = (body[place : place + 10] for place in range(0, len(body), 10))
        found = asked.post("/predict", content=pieces, headers={"content-type": "application/json"})
        assert found.status_code == status
        assert asked.post("/predict", json={"inputs": "a"}).json() == labels(["a"])[0]


def test_a_model_that_fails_fails_for_one_request() -> None:
    def answer(texts: list[str]) -> list[Any]:
        if "bad" in texts:
            raise KeyError("bad")
        return labels(texts)

    with client(answer=answer) as asked:
        assert asked.post("/predict", json={"inputs": "bad"}).status_code == 500
        assert asked.post("/predict", json={"inputs": "good"}).json() == labels(["good"])[0]


class Watched(Batches[Any]):
    """Batches that keep the futures they gave; their model waits until it may answer."""

    def __init__(self) -> None:
        self.may, self.given, self.computed = Event(), list[Future[Any]](), list[str]()
        super().__init__(self._when_it_may, most=4, waiting=1000)

    def _when_it_may(self, texts: list[str]) -> list[Any]:
        self.computed += texts
        assert self.may.wait(30)
        return labels(texts)

    def submit(self, texts: Any) -> list[Future[Any]]:
        made = super().submit(texts)
        self.given += made
        return made


def until(reached: Any) -> None:
    """Wait until a condition is true."""
    for _ in range(3000):
        if reached():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.fixture
def running() -> Iterator[tuple[Watched, int]]:
    """Return the batches of a server that runs, and its port."""
    uvicorn = pytest.importorskip("uvicorn")
    batches = Watched()
    server = uvicorn.Server(
        uvicorn.Config(make_app(Served("m", "predict", labels), batches), log_level="warning")
    )
    listening = socket.create_server(("127.0.0.1", 0))
    thread = Thread(target=server.run, args=([listening],))
    thread.start()
    yield batches, listening.getsockname()[1]
    batches.may.set()
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def ask(port: int, texts: list[str]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps({"inputs": texts}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as found:
        return json.load(found)


def test_clients_at_once_get_the_answers_to_their_own_texts(running: tuple[Watched, int]) -> None:
    batches, port = running
    batches.may.set()

    def asked(number: int) -> bool:
        texts = [f"{number}, {place}" for place in range(1 + number % 5)]
        return ask(port, texts) == labels(texts)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(asked, range(60)))


def test_the_texts_of_a_client_that_leaves_are_not_computed(running: tuple[Watched, int]) -> None:
    batches, port = running
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, port, ["first"])
        until(lambda: batches.computed)
        body = b'{"inputs": ["gone"]}'
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(
                b"POST /predict HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            until(lambda: len(batches.given) == 2)
        until(lambda: batches.given[1].cancelled())
        last = pool.submit(ask, port, ["last"])
        until(lambda: len(batches.given) == 3)
        batches.may.set()
        assert first.result(30) == labels(["first"]) and last.result(30) == labels(["last"])
    assert batches.computed == ["first", "last"]
