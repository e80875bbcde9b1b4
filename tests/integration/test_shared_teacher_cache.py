"""Two processes of one run share a teacher cache, and find what the other has computed."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_sparse import SparseTrainer
from tests.support.doomed import cheap_processes
from tests.support.lessons import LESSONS
from tests.support.ranks import RANKS, TEACHING
from tests.support.tiny import arguments, same_weights

ROWS = 16


def trainer(folder: Path, cache: str | None, batch: int) -> SparseTrainer:
    return SparseTrainer(
        LESSONS["classification"].make(0),
        arguments(folder, per_device_train_batch_size=batch, num_train_epochs=3, max_steps=-1),
        train_dataset=LESSONS["classification"].rows(ROWS),
        recipe=TEACHING,
        teacher=LESSONS["classification"].make(1),
        teacher_cache=cache,
    )


def work(rank: int, port: int, folder: Path) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": RANKS,
        "LOCAL_WORLD_SIZE": RANKS,
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    run = trainer(folder / "run", str(folder / "cache"), batch=4)
    run.train()
    cache = run.distiller.cache
    torch.save(
        {"computed": cache.computed, "read": cache.read, "weights": run.model.state_dict()},
        folder / f"{rank}.pt",
    )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [cheap_processes().Process(target=work, args=(rank, port, folder)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    if (codes := [process.exitcode for process in processes]) != [0] * RANKS:
        raise RuntimeError(f"the processes ended with exit codes {codes}")
    return folder


def test_each_example_is_computed_by_one_process_in_one_epoch(folder: Path) -> None:
    found: list[dict[str, Any]] = [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]
    assert [run["computed"] for run in found] == [ROWS / RANKS] * RANKS
    assert [run["read"] for run in found] == [2 * ROWS / RANKS] * RANKS
    ours, theirs = (run["weights"] for run in found)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_one_process_goes_on_with_what_two_have_computed(folder: Path, tmp_path: Path) -> None:
    runs = [trainer(tmp_path, str(folder / "cache"), batch=8) for _ in range(2)]
    for run in runs:
        run.train()
        assert run.distiller.cache.computed == 0
    assert same_weights(runs[0].model, runs[1].model)
