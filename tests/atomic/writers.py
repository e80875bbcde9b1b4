"""Writes files and directories in a process of its own, which kills itself at one of its renames.

Call as `python writers.py WRITER FOLDER CALL WHEN`: the process dies before or after its rename of that
number, 0 for never.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.atomic.file_group import FileGroup, recover_files, staged_files
from hf_sparse.atomic.files import write_atomically

NAMES = ("config.json", "weights", "weights.index", "inner/tokenizer")
GROUP = FileGroup("test-", marker="weights", order=lambda name: (name == "weights", name))


def write_file(folder: Path) -> None:
    write_atomically(folder / "out", b"new")


def write_directory(folder: Path) -> None:
    with replacing_directory(folder / "out", lambda held: (held / "config.json").is_file()) as staged:
        fill(staged, "new")


def write_group(folder: Path) -> None:
    with staged_files(folder / "out", GROUP) as staged:
        fill(staged, "new")


def recover_group(folder: Path) -> None:
    recover_files(folder / "out", GROUP)


WRITERS = {"file": write_file, "directory": write_directory, "group": write_group, "recovery": recover_group}


def fill(directory: Path, content: str) -> None:
    for name in NAMES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def die_at(number: int, when: str) -> None:
    """Let this process die at a rename as a power cut would have it, whichever function makes that."""
    made = 0

    def deadly(rename: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            nonlocal made
            made += 1
            if made == number and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*args, **kwargs)
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in ("rename", "replace"):
        setattr(os, name, deadly(getattr(os, name)))


if __name__ == "__main__":
    die_at(int(sys.argv[3]), sys.argv[4])
    WRITERS[sys.argv[1]](Path(sys.argv[2]))
