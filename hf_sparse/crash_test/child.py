"""One process of a run that is straight, killed or resumed: `python -m hf_sparse.crash_test.child TASK`."""

import io
import json
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PrinterCallback

from hf_sparse.atomic.files import write_atomically
from hf_sparse.crash_test.job import Job
from hf_sparse.crash_test.moments import PROCESSES, Kill, Timeline
from hf_sparse.crash_test.snapshot import take
from hf_sparse.readers import read_json

OUTPUT, END = "output", "end"


def train(task: Path, quiet: bool = False) -> None:
    """Run the task of a file, which may end in this process's death; leave results beside the file.

    They are `steps/RANK/STEP.pt`, the state after each step; `calls-RANK.json`, how many calls were counted;
    `error-RANK.json` if the run failed. With `quiet` nothing is printed.
    """
    rank = int(os.environ.get("RANK", "0"))
    # tqdm's own lock is a semaphore, which multiprocessing reports as leaked where a process is killed.
    tqdm.set_lock(threading.RLock())
    if "WORLD_SIZE" in os.environ and "OMP_NUM_THREADS" not in os.environ:
        # As torchrun does, or processes would compete for the same cores.
        torch.set_num_threads(1)
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    try:
        write_atomically(task.parent / PROCESSES / f"{os.getpid()}", b"")
        _train(read_json(task, "task", "start the test again"), task.parent, rank)
    except Exception as error:
        said = {"kind": type(error).__name__, "message": f"{error}", "traceback": traceback.format_exc()}
        write_atomically(task.parent / f"error-{rank}.json", json.dumps(said).encode())
        raise


def _train(task: dict[str, Any], folder: Path, rank: int) -> None:
    job = Job(**task["job"])
    # transformers 5.17 loads the optimizer of several processes to "cpu:0", a place that torch does not know.
    torch.serialization.register_package(0, lambda storage: None, _restore)
    trainer = job.make_trainer(folder / OUTPUT)
    trainer.remove_callback(PrinterCallback)
    kill = Kill.from_dict(task["kill"]) if task["kill"] and task["kill"]["rank"] == rank else None
    left = 1 + job.max_steps // task["every"]

    def keep(name: str) -> None:
        buffer = io.BytesIO()
        torch.save(take(trainer), buffer)
        file = folder / "steps" / f"{rank}" / f"{name}.pt"
        _require_room(folder, 2 * left * job.processes * len(buffer.getvalue()))
        write_atomically(file, buffer.getvalue())

    def ended() -> None:
        nonlocal left
        step = trainer.state.global_step
        if step % task["every"] == 0:
            keep(f"{step}")
            left -= 1

    timeline = Timeline(task["counted"], kill, task["calls"].get(f"{rank}", {}), folder, ended)
    trainer.add_callback(timeline)
    trainer.train(resume_from_checkpoint=True if task["resume"] else None)
    keep(END)
    write_atomically(folder / f"calls-{rank}.json", json.dumps(timeline.calls).encode())


def _require_room(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"the states of all steps take about {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB "
            "left; take a smaller model or fewer steps, or set TMPDIR to a larger disk"
        )


def _restore(storage: Any, location: str) -> Any:
    return storage if location == "cpu:0" else None


if __name__ == "__main__":
    train(Path(sys.argv[1]))
