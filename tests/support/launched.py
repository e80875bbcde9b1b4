"""A script for torchrun: trains, goes on from the last checkpoint if there is one, and may fail once.

    torchrun --nproc_per_node 2 tests/support/launched.py FOLDER FAULT

FAULT is `killed` or `memory`, what happens to the second process in step 5, or `none`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from tests.support.runs import outcome, prune

STEP = 5


class Fault(TrainerCallback):
    """Fails in the second process, the first time that this step begins."""

    def __init__(self, fault: str, folder: Path) -> None:
        self.fault, self.happened = fault, folder / "happened"

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != STEP - 1 or args.process_index != 1 or self.happened.exists():
            return
        if self.fault == "killed":
            self.happened.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            raise torch.OutOfMemoryError("the device has no memory left")


def main() -> None:
    folder, fault = Path(sys.argv[1]), sys.argv[2]
    (folder / "run").mkdir(parents=True, exist_ok=True)
    trainer = prune(folder / "run", save_strategy="steps", save_steps=2)
    trainer.add_callback(Fault(fault, folder))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
    if trainer.is_world_process_zero():
        torch.save(outcome(trainer), folder / "end.pt")


if __name__ == "__main__":
    main()
