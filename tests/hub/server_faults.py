"""Faults of the Hub server that tests plan."""

import re
import threading
from dataclasses import dataclass, field
from typing import Protocol


class Exchange(Protocol):
    """A request whose body has not been read, as faults see it."""

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None: ...
    def read(self, count: int | None = None) -> bytes: ...
    def drop(self) -> None: ...
    def shorten(self, after_bytes: int) -> None: ...


@dataclass
class Fault:
    """A fault of the next `times` requests of a method whose path matches a pattern."""

    method: str
    pattern: str
    times: int

    def concerns(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("*", method) and bool(re.search(self.pattern, path))

    def happen(self, exchange: Exchange) -> bool:
        """Cause the fault; return whether the request is answered by that."""
        raise NotImplementedError


@dataclass
class Failure(Fault):
    """An answer with an error."""

    status: int
    headers: dict[str, str]
    content: object

    def happen(self, exchange: Exchange) -> bool:
        exchange.read()
        exchange.answer(self.status, self.content, self.headers)
        return True


@dataclass
class Cut(Fault):
    """A connection that drops after some bytes of the request's body."""

    after_bytes: int

    def happen(self, exchange: Exchange) -> bool:
        exchange.read(self.after_bytes)
        exchange.drop()
        return True


@dataclass
class Loss(Fault):
    """A connection that drops after the request was carried out, after some bytes of the answer."""

    after_bytes: int

    def happen(self, exchange: Exchange) -> bool:
        exchange.shorten(self.after_bytes)
        return False


@dataclass
class Block(Fault):
    """A request that waits in the middle of its body until a test releases it."""

    after_bytes: int
    reached: threading.Event = field(default_factory=threading.Event)
    decided: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False

    def happen(self, exchange: Exchange) -> bool:
        exchange.read(self.after_bytes)
        self.reached.set()
        self.decided.wait(60)
        if self.abandoned:
            exchange.drop()
        return self.abandoned

    def wait(self) -> None:
        """Wait for a request."""
        if not self.reached.wait(60):
            raise TimeoutError(f"no request to {self.pattern} came")

    def release(self) -> None:
        """Fulfill the request."""
        self.decided.set()

    def abandon(self) -> None:
        """Forget the request, whose client is dead."""
        self.abandoned = True
        self.decided.set()
