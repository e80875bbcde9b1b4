"""Processes that train until they kill themselves."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from tests.support.runs import prune

_FOLDERS = (Path(__file__).parents[2],)


@dataclass(frozen=True)
class Moment:
    """Before or after the n-th call of a function, named as `pkgutil.resolve_name` takes it."""

    owner: str
    name: str
    call: int
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} call {self.call} of {self.name}"

    def arm(self) -> None:
        """Let this process die at that moment, as in a power cut."""
        owner = resolve_name(self.owner)
        original: Callable[..., Any] = getattr(owner, self.name)
        calls = itertools.count(1)

        def deadly(*args: Any, **kwargs: Any) -> Any:
            last = next(calls) == self.call
            if last and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, self.name, deadly)


def cheap_processes() -> ForkServerContext:
    """Return a context whose processes start with everything imported."""
    paths = [*map(str, _FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.runs", "transformers.models.bert.modeling_bert"])
    return context


def train(
    folder: Path, resume: str | bool | None, changes: dict[str, Any], moment: Moment | None = None
) -> None:
    """Train in this process until the moment kills it."""
    if moment is not None:
        moment.arm()
    prune(folder, **changes).train(resume_from_checkpoint=resume)


def train_until(moment: Moment, folder: Path, resume: str | bool | None = None, **changes: Any) -> None:
    """Train in another process until it dies; raise `RuntimeError` if it does not die."""
    process = cheap_processes().Process(target=train, args=(folder, resume, changes, moment))
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the run ended with exit code {process.exitcode}, not {moment}")
