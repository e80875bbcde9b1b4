"""Two processes whose runs have a fault on one of them; each leaves the error that it saw."""

import errno
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback
from hf_sparse.atomic.directory_lock import locked
from tests.support.doomed import cheap_processes
from tests.support.tiny import arguments, bert, pruning, sentences

AGREEMENT = "hf_sparse.training.checkpoints.agreement"
CHECKPOINTS = "hf_sparse.training.checkpoints.atomic_checkpoints"
LIMIT_S = 240


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def on(rank: int, where: int, fault: Callable[[], AbstractContextManager]) -> AbstractContextManager:
    """Return the fault on the rank that has it, on others nothing."""
    return fault() if rank == where else nullcontext()


def train(folder: Path, recipe: Recipe, rows: list[dict[str, Any]], **changes: Any) -> None:
    settings = {"per_device_train_batch_size": 2, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    SparseTrainer(
        bert(),
        arguments(folder, **(settings | changes)),
        train_dataset=rows,
        eval_dataset=rows[:4],
        recipe=recipe,
    ).train()


def disputes(rank: int, folder: Path) -> dict[str, Callable[[], None]]:
    """Return what each scenario does in the process of a rank."""
    recipe, rows, second = pruning("sparsity.schedule.ramp_end=2"), sentences(16), rank == 1

    def other_recipe() -> None:
        train(folder, pruning("sparsity.schedule.ramp_end=2", f"sparsity.schedule.final=0.{9 - rank}"), rows)

    def other_recipe_of_callback() -> None:
        final = f"sparsity.schedule.final=0.{9 - rank}"
        own = pruning("sparsity.lr_rewind=false", "sparsity.schedule.ramp_end=2", final)
        args = arguments(folder, per_device_train_batch_size=2, max_steps=3)
        Trainer(bert(), args, train_dataset=rows, callbacks=[SparsityCallback(own)]).train()

    def other_seed() -> None:
        train(folder, recipe, rows, data_seed=rank)

    def other_order() -> None:
        train(folder, recipe, rows[::-1] if second else rows)

    def other_length() -> None:
        train(folder, recipe, rows[:14] if second else rows)

    def other_version() -> None:
        with patch(f"{AGREEMENT}.versions", lambda: {"hf_sparse": f"0.{rank}"}):
            train(folder, recipe, rows)

    def full_beside() -> None:
        with on(rank, 1, lambda: patch("hf_sparse.training.checkpoints.passes.torch.save", full_disk)):
            train(folder, recipe, rows)

    def full_first() -> None:
        with on(rank, 0, lambda: patch(f"{CHECKPOINTS}.write_manifest", full_disk)):
            train(folder, recipe, rows)

    def full_weights() -> None:
        with on(rank, 0, lambda: patch("hf_sparse.training.parts.part.write_state", full_disk)):
            train(folder, recipe, rows)

    def full_at_best() -> None:
        best = {"metric_for_best_model": "loss", "load_best_model_at_end": True}
        every = {"eval_strategy": "steps", "eval_steps": 2, "lr_scheduler_type": "constant"}
        with on(rank, 0, lambda: patch("hf_sparse.training.parts.part.write_state", full_disk)):
            train(folder, recipe, rows, **best, **every)

    def claimed() -> None:
        folder.mkdir(exist_ok=True)
        with on(rank, 0, lambda: locked(folder)):
            train(folder, recipe, rows)

    def nan() -> None:
        loss = torch.nn.functional.cross_entropy

        def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            return loss(*args, **kwargs) * torch.nan

        with on(rank, 1, lambda: patch("torch.nn.functional.cross_entropy", poisoned)):
            train(folder, recipe, rows)

    def agreed() -> None:
        train(folder, recipe, rows)

    def failed() -> None:
        with on(rank, 1, lambda: patch("torch.nn.functional.cross_entropy", full_disk)):
            train(folder, recipe, rows)

    scenarios = (
        other_recipe,
        other_recipe_of_callback,
        other_seed,
        other_order,
        other_length,
        other_version,
        full_beside,
        full_first,
        full_weights,
        full_at_best,
        claimed,
        nan,
        agreed,
        # The last one: a process that fails alone leaves the group.
        failed,
    )
    return {scenario.__name__: scenario for scenario in scenarios}


def work(rank: int, port: int, folder: Path) -> None:
    """Go through all scenarios as one process of two; leave the errors in `rank-N.pt`."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    seen = {}
    for name in disputes(rank, folder):
        home = folder / name
        began = time.monotonic()
        try:
            disputes(rank, home)[name]()
            error = None
        except Exception as failed:
            error = f"{type(failed).__name__}: {failed}"
        left = sorted(path.name for path in home.glob("checkpoint-*"))
        seen[name] = {"error": error, "left": left, "seconds": time.monotonic() - began}
        if name != "failed":
            torch.distributed.barrier()
    torch.save(seen, folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def dispute(folder: Path) -> list[dict[str, dict[str, Any]]]:
    """Run both processes; return what each saw of every scenario, or raise `RuntimeError`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = cheap_processes()
    processes = [context.Process(target=work, args=(rank, port, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0, 0]:
        raise RuntimeError(f"the processes ended with exit codes {codes}")
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]
