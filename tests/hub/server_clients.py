"""Processes that use the Hub server with the real client libraries.

Importing those takes seconds, so one process does it and is forked for every program that a test runs.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from tests.hub.server import TOKEN

ROOT = Path(__file__).parents[2]
# Without hf_sparse: programs that are to do without it must not find it.
_STOCK = (
    "torch",
    "huggingface_hub",
    "datasets",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer",
)
OURS = ("hf_sparse.hub.upload",)
WITHOUT_US = "import sys; sys.modules['hf_sparse'] = None\n"
# The waits between the client's own attempts take most of a minute.
IMPATIENT = "import time; time.sleep = lambda seconds: None\n"


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a program; the code is negative if a signal ended it."""

    returncode: int
    stdout: str
    stderr: str


class Running:
    """A program that runs."""

    def __init__(self, clients: "Clients", folder: Path, process: int) -> None:
        self.clients, self.folder, self.process = clients, folder, process

    def wait(self) -> Ended:
        code = self.clients.ask(wait=self.process)
        texts = [(self.folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return Ended(code, *texts)

    def kill(self) -> Ended:
        os.kill(self.process, 9)
        return self.wait()


class Clients:
    """Runs programs whose Hub is a server, with some modules imported before they start."""

    def __init__(self, url: str, modules: Sequence[str] = ()) -> None:
        self.url, self.modules = url, modules

    def __enter__(self) -> "Clients":
        self._folder = TemporaryDirectory()
        self.home = Path(self._folder.name)
        self._count = 0
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTEST"))
        }
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.home / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        self._parent = subprocess.Popen(
            [sys.executable, __file__, *self.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | settings,
            cwd=self.home,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # To leave would take it seconds.
        self._parent.kill()
        self._parent.wait()
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._folder.cleanup()

    def ask(self, **what: Any) -> Any:
        self._parent.stdin.write(json.dumps(what) + "\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())

    def start(self, program: str, token: str | None = TOKEN, **variables: str) -> Running:
        """Start a program that is logged in with a token."""
        self._count += 1
        folder = self.home / f"program-{self._count}"
        folder.mkdir()
        if token is not None:
            variables["HF_TOKEN"] = token
        return Running(self, folder, self.ask(start=program, folder=str(folder), variables=variables))

    def run(self, program: str, token: str | None = TOKEN, **variables: str) -> Ended:
        """Run a program to its end."""
        return self.start(program, token, **variables).wait()

    def output(self, program: str, token: str | None = TOKEN, **variables: str) -> str:
        """Return what a program prints; raise `RuntimeError` if it fails."""
        ended = self.run(program, token, **variables)
        if ended.returncode:
            raise RuntimeError(f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
        return ended.stdout.strip()


def _serve() -> None:
    """Fork for each program that is requested; answer with its process id, later with its exit code."""
    for name in (*_STOCK, *sys.argv[1:]):
        __import__(name)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            _become(asked["start"], Path(asked["folder"]), asked["variables"])
        print(answer, flush=True)


def _become(program: str, folder: Path, variables: dict[str, str]) -> None:
    """Run a program in this process, which ends with it."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(variables)
    os.chdir(folder)
    code = 1
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
