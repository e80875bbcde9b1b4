"""A Hub server on this machine, with all that huggingface_hub and transformers request, without xet."""

import json
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.server_access import Refused
from tests.hub.server_faults import Block, Cut, Failure, Fault, Loss
from tests.hub.server_repositories import Repository
from tests.hub.server_routes import ROUTES

TOKEN, READER = "hf_" + "w" * 34, "hf_" + "r" * 34


@dataclass(frozen=True)
class Request:
    """A request with the status of its answer, 0 if there was none."""

    method: str
    path: str
    token: str | None
    length: int
    status: int


@dataclass
class Server:
    """Repositories that real clients reach at `url`; TOKEN may write as `somebody` and as `team`."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __enter__(self) -> "Server":
        owner = self

        class Handler(_Handler):
            hub = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forget everything but the address."""
        for kept in (self.repositories, self.requests, self.faults):
            kept.clear()

    def fail(
        self,
        method: str,
        pattern: str,
        status: int,
        times: int = 1,
        message: str | bytes = "planned",
        **headers: str,
    ) -> None:
        """Answer with an error; `message` in bytes is the whole body, `_` in names of headers is `-`."""
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        content = message if isinstance(message, bytes) else {"error": message}
        self.faults.append(Failure(method, pattern, times, status, named, content))

    def cut(self, method: str, pattern: str, after_bytes: int = 0, times: int = 1) -> None:
        """Drop the connection in the middle of a request."""
        self.faults.append(Cut(method, pattern, times, after_bytes))

    def lose(self, method: str, pattern: str, after_bytes: int = 0, times: int = 1) -> None:
        """Drop the connection in the middle of an answer."""
        self.faults.append(Loss(method, pattern, times, after_bytes))

    def block(self, method: str, pattern: str, after_bytes: int = 0) -> Block:
        """Hold a request."""
        block = Block(method, pattern, 1, after_bytes)
        self.faults.append(block)
        return block

    def wait_for(self, state: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until a condition holds; raise `TimeoutError` if it does not in time."""
        end = time.monotonic() + seconds
        while not state():
            if time.monotonic() > end:
                raise TimeoutError("what was waited for did not come")
            time.sleep(0.01)

    def asked(self, method: str, pattern: str) -> list[Request]:
        """Return the requests of a method whose path matches a pattern somewhere."""
        return [known for known in self.requests if known.method == method and re.search(pattern, known.path)]

    def create(self, name: str, private: bool = False) -> Repository:
        """Create a repository as somebody else would."""
        self.repositories[name] = Repository(name, private)
        return self.repositories[name]


class _Handler(BaseHTTPRequestHandler):
    """A connection; the first route that matches a request answers it."""

    protocol_version = "HTTP/1.1"
    hub: Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            # The client is gone.
            self.close_connection = True

    def do_GET(self) -> None:
        self.received, self.status, self.limit = b"", 0, None
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.writer = self.token == TOKEN
        try:
            for fault in self.hub.faults:
                if fault.concerns(self.command, self.route):
                    fault.times -= 1
                    if fault.happen(self):
                        return
                    break
            self._fulfill()
        finally:
            sent = int(self.headers.get("Content-Length") or len(self.received))
            self.hub.requests.append(Request(self.command, self.route, self.token, sent, self.status))

    do_HEAD = do_POST = do_PUT = do_GET

    def _fulfill(self) -> None:
        try:
            if self.token is not None and self.token not in (TOKEN, READER):
                raise Refused(401, "Invalid credentials in Authorization header")
            for method, pattern, answer in ROUTES:
                # Before it is unquoted: branches may have slashes.
                match = re.fullmatch(pattern, urlsplit(self.path).path)
                if match and self.command in method.split():
                    answer(self, **{name: unquote(text) for name, text in match.groupdict("").items()})
                    return
            raise Refused(404, f"Sorry, {self.route} is not what this Hub knows.")
        except Refused as error:
            self.read()
            headers = {"X-Error-Message": error.message} | (
                {"X-Error-Code": error.code} if error.code else {}
            )
            self.answer(error.status, {"error": error.message}, headers)
        except OSError:
            raise
        except Exception:
            # A status that no client tries again.
            self.answer(501, {"error": traceback.format_exc()})

    def read(self, count: int | None = None) -> bytes:
        """Read `count` bytes of the body, or all; return everything read so far."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while count is None or len(self.received) < count:
                length = int(self.rfile.readline().split(b";")[0] or b"0", 16)
                self.received += self.rfile.read(length)
                self.rfile.readline()
                if length == 0:
                    break
            return self.received
        whole = int(self.headers.get("Content-Length") or 0)
        wanted = whole if count is None else min(count, whole)
        self.received += self.rfile.read(max(0, wanted - len(self.received)))
        if count is None and len(self.received) < whole:
            raise ConnectionError("the client is gone")
        return self.received

    def json(self) -> Any:
        return json.loads(self.read())

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON, or with bytes unchanged."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.status = status
        self.send_response(status)
        for name, value in (
            {"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(name, value)
        if self.limit is not None:
            if self.limit:
                self.end_headers()
                self.wfile.write(body[: self.limit])
            self.drop()
            return
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def shorten(self, after_bytes: int) -> None:
        self.limit = after_bytes

    def log_message(self, *_: object) -> None:
        """Say nothing: tests read `Server.requests`."""
