"""Processes that train one model together: started from a warm one, each leaving its results in a file."""

import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from tests.support.doomed import cheap_processes

# `job(rank, folder)` returns what a process leaves.
Job = Callable[[int, Path], Any]
LIMIT_S = 300


def join_group(rank: int, ranks: int, port: int) -> None:
    """Set the variables by which torchrun tells a process of its group."""
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    # transformers 5.17 loads the optimizer of several processes to "cpu:0", a place that torch does not know.
    torch.serialization.register_package(0, lambda storage: None, _restore)


def run_together(job: Job, ranks: int, folder: Path, *given: Any) -> list[Any]:
    """Run `job(rank, folder, *given)` in each process; return the results, or raise `RuntimeError`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = cheap_processes()
    processes = [
        context.Process(target=_work, args=(job, rank, ranks, port, folder, given)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    waited_until = time.monotonic() + LIMIT_S
    # As torchrun does: when one process fails, the others end.
    while time.monotonic() < waited_until and any(process.exitcode is None for process in processes):
        if any(process.exitcode for process in processes):
            break
        wait([process.sentinel for process in processes if process.exitcode is None], timeout=1)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * ranks:
        raise RuntimeError(f"the processes ended with exit codes {codes}")
    return [torch.load(_results(folder, rank), weights_only=False) for rank in range(ranks)]


def _work(job: Job, rank: int, ranks: int, port: int, folder: Path, given: tuple[Any, ...]) -> None:
    join_group(rank, ranks, port)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(job(rank, folder, *given), _results(folder, rank))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _results(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.pt"


def _restore(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    return storage if location == "cpu:0" else None
