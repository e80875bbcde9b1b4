"""Runs that one number of processes begins, and another ends."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.distributed import DistributedConfig

from hf_sparse import Recipe, SparseTrainer
from tests.support.engines import let_accelerate_shard, load_sharded, refusal, sharded_arguments
from tests.support.sharded_runs import STATES, calm, outcome, run, step_by_step
from tests.support.tiny import arguments

SCHEDULE = {"initial": 0.3, "final": 0.6, "ramp_end": 3, "every": 1}
RECIPE = Recipe.from_dict(
    {"sparsity": {"pattern": "1x4", "schedule": SCHEDULE}, "quantization": {"freeze": 3}}
).override(["sparsity.revive=true"])
# The kinds of Trainer, each with its name.
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "Trainer": (Trainer, {}),
    "SparseTrainer": (SparseTrainer, {"recipe": RECIPE}),
}


def moved(rank: int, folder: Path, processes: int, source: Path | None) -> dict[str, Any]:
    """Train from the beginning, or from the checkpoints in `source`, as one process of a group."""
    let_accelerate_shard()
    results: dict[str, Any] = {}
    for state in STATES:
        for name, (kind, parts) in KINDS.items():
            place = f"{name}-{state}"
            saving = {"save_strategy": "steps", "save_steps": 2, "fsdp_config": {"state_dict_type": state}}
            args = sharded_arguments(folder / place, **step_by_step(processes, **saving))
            resume = source and source / place / "checkpoint-2"
            trainer = run(kind, folder, calm(), args, resume, **parts)
            results[place] = outcome(trainer) | {"masks": _masks(trainer)}
    if source is not None:
        results["refused"] = _refused(folder, source, processes)
    return results


def in_replicas(rank: int, folder: Path) -> dict[str, Any]:
    """Train as one of two replicas of two processes each, among which the weights are divided."""
    # Made first, since it starts the group of processes.
    args = arguments(folder / "replicas", **step_by_step(4))
    if rank == 0:
        calm().save_pretrained(folder / "student")
    torch.distributed.barrier()
    sizes = DistributedConfig(fsdp_size=2, dp_replicate_size=2)
    model = load_sharded(folder / "student", attn_implementation="eager", distributed_config=sizes)
    trainer = run(SparseTrainer, folder, model, args, recipe=RECIPE)
    trainer.save_model(str(folder / "replicas"))
    placements = {str(values.placements) for values in trainer.model.parameters()}
    return outcome(trainer) | {"masks": _masks(trainer), "placements": placements}


def _masks(trainer: Any) -> dict[str, Any]:
    sparsifier = getattr(trainer, "sparsifier", None)
    return {} if sparsifier is None else dict(sparsifier.masks.pack())


def _refused(folder: Path, source: Path, processes: int) -> dict[str, str | None]:
    """Return the messages of runs that cannot go on from a checkpoint."""
    kind, parts = KINDS["SparseTrainer"]
    full, sharded = STATES

    def go_on(state: str, checkpoint: Path, **changes: Any) -> str | None:
        settings = step_by_step(processes, fsdp_config={"state_dict_type": state}) | changes
        args = sharded_arguments(folder / "refused", **settings)
        return refusal(lambda: run(kind, folder, calm(), args, checkpoint, **parts))

    checkpoint = source / f"SparseTrainer-{full}" / "checkpoint-2"
    return {
        "state": go_on(sharded, checkpoint),
        "rows": go_on(full, checkpoint, per_device_train_batch_size=1),
    }
