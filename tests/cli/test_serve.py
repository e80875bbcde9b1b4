"""`hf-sparse serve`: what it says, and what it refuses before a model is loaded."""

import json
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.commands import lines, quantized, refused


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_what_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    if package == "uvicorn":
        pytest.importorskip("fastapi")
    monkeypatch.setitem(sys.modules, package, None)
    message = refused("serve", tmp_path)
    assert message == f'serve needs {package}; run pip install "hf_sparse[serve]"'


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = refused("serve", tmp_path, "--port", taken.getsockname()[1])
    assert "Address already in use" in message


def test_it_says_where_it_listens_and_answers_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    import uvicorn
    from fastapi.testclient import TestClient

    said = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with TestClient(server.config.app) as client:
            said.append(client.get("/health").json())
            said.append(client.post("/predict", json={"inputs": "the cat sat"}).json())
        said.append(sockets[0].getsockname())
        sockets[0].close()
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    quantized(tmp_path / "int8")
    (line,) = lines("serve", tmp_path / "int8", "--port", 0, "--json")
    health, labels, (host, port) = said
    assert json.loads(line) == {
        "url": f"http://{host}:{port}",
        "model": str(tmp_path / "int8"),
        "task": "predict",
    }
    assert health == {"status": "ok", "task": "predict", "waiting": 0}
    assert {row["label"] for row in labels} == {"LABEL_0", "LABEL_1"}
    assert sum(row["score"] for row in labels) == pytest.approx(1)
