"""Runs under accelerate's FSDP2 in less usual ways, as one process of a group."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_sparse import Recipe, SparseTrainer, SparsityCallback
from hf_sparse.checkpoint.sidecar import read_state
from tests.support.engines import let_accelerate_shard, sharded_arguments
from tests.support.sharded_runs import DISTILLED, calm, files, outcome, run, step_by_step

SCHEDULE = {"initial": 0.3, "final": 0.6, "ramp_end": 3, "every": 1}
PRUNED = Recipe.from_dict({"sparsity": {"pattern": "1x4", "schedule": SCHEDULE}})
SAVING = {"save_strategy": "steps", "save_steps": 2}


class SpoilShard(TrainerCallback):
    """Writes NaN into the part of a weight that the last process has, as diverged training does."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if state.global_step == 2 and args.process_index == args.world_size - 1:
            model.bert.pooler.dense.weight.to_local().data[0, 0] = torch.nan


def edges(rank: int, folder: Path, processes: int) -> dict[str, Any]:
    """Do everything; return what came of each."""
    let_accelerate_shard()

    def args(name: str, **changes: Any) -> Any:
        return sharded_arguments(folder / name, **step_by_step(processes, **changes))

    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "callback": lambda: by_callback(folder, args("callback", **SAVING)),
        "callback resumed": lambda: by_callback(
            folder, args("callback-resumed", **SAVING), folder / "callback" / "checkpoint-2"
        ),
        "diverged": lambda: diverged(folder, args("diverged")),
        "best": lambda: best(folder, args("best", **SAVING, **_BEST)),
        "weights alone": lambda: pruned(folder, args("alone", **SAVING, save_only_model=True)),
        "bf16": lambda: pruned(folder, args("bf16", bf16=True, use_cpu=True), "quantization={}"),
        "checkpointed": lambda: pruned(
            folder, args("checkpointed", fsdp_config={"activation_checkpointing": True}), "quantization={}"
        ),
    }
    # Last, since compiled code looks at everything that the process has done.
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    jobs["compiled"] = lambda: pruned(folder, args("compiled", **compiled), "quantization={}")
    return {name: job() for name, job in jobs.items()}


_BEST = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
}


def by_callback(folder: Path, args: Any, resume: Path | None = None) -> dict[str, Any]:
    """Prune under plain Trainer."""
    callback = SparsityCallback(PRUNED, resume_from_checkpoint=str(resume) if resume else None)
    trainer = run(Trainer, folder, calm(), args, resume, callbacks=[callback])
    masks = {name: bytes(values.numpy()) for name, values in callback.sparsifier.masks.pack().items()}
    return outcome(trainer) | {"masks": masks}


def diverged(folder: Path, args: Any) -> dict[str, Any]:
    """Train until weights of one process are NaN."""
    try:
        run(SparseTrainer, folder, calm(), args, recipe=PRUNED, callbacks=[SpoilShard()])
    except RuntimeError as error:
        return {"error": f"{error}"}
    return {"error": ""}


def best(folder: Path, args: Any) -> dict[str, Any]:
    """Prune until the end of the ramp, and load the best model since."""
    trainer = run(SparseTrainer, folder, calm(), args, recipe=PRUNED)
    trainer.save_model(str(folder / "best" / "final"))
    masks = {name: bytes(values.numpy()) for name, values in trainer.sparsifier.masks.pack().items()}
    return {"masks": masks, "step": trainer.state.best_global_step}


def pruned(folder: Path, args: Any, *more: str) -> dict[str, Any]:
    """Prune and distil; return what is saved."""
    recipe = PRUNED.override([f"distillation={json.dumps(DISTILLED.to_dict()['distillation'])}", *more])
    trainer = run(SparseTrainer, folder, calm(), args, recipe=recipe, teacher=calm(seed=1))
    place = Path(args.output_dir) / "final"
    trainer.save_model(str(place))
    trainer.accelerator.wait_for_everyone()
    saved = read_state(place)
    sections = {name: sorted(section) for name, section in saved.extras.items()}
    return outcome(trainer) | {
        "masks": sorted(saved.masks),
        "sections": sections,
        "files": files(place.parent),
    }
