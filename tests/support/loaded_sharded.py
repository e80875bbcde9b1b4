"""What processes do with models that transformers shards as it loads them."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer
from tests.support.engines import load_sharded, refusal, whole_weights
from tests.support.sharded_runs import FEATURES, ROUNDED, calm, files, outcome, run, step_by_step
from tests.support.tiny import arguments

PRUNED = Recipe.from_dict({"sparsity": {"pattern": "1x4", "schedule": {"final": 0.6, "ramp_end": 2}}})


def together(rank: int, folder: Path, processes: int) -> dict[str, Any]:
    """Do everything as one process of a group whose models are sharded at load time."""

    def args(name: str, **changes: Any) -> Any:
        return arguments(folder / name, **step_by_step(processes, **changes))

    # Made first, since it starts the group of processes.
    args("nothing")
    for seed, name in enumerate(("student", "teacher")):
        if rank == 0:
            calm(seed).save_pretrained(folder / name)
    torch.distributed.barrier()

    def load(name: str = "student") -> Any:
        return load_sharded(folder / name, attn_implementation="eager")

    results: dict[str, Any] = {}
    saving = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    for kind in (Trainer, SparseTrainer):
        trainer = run(kind, folder, load(), args(kind.__name__, **saving))
        trainer.save_model(str(folder / kind.__name__ / "final"))
        results[kind.__name__] = outcome(trainer)
    # The teacher whole on every process, and sharded itself.
    results["taught"] = {
        name: outcome(run(SparseTrainer, folder, load(), args(name), recipe=recipe, teacher=calm(seed=1)))
        for name, recipe in FEATURES.items()
    }
    sharded = load("teacher")
    trainer = run(SparseTrainer, folder, load(), args("sharded"), recipe=FEATURES["hidden"], teacher=sharded)
    results["sharded teacher"] = outcome(trainer) | {"teacher": whole_weights(sharded)}
    results["rounded"] = {}
    for name, recipe in ROUNDED.items():
        trainer = run(SparseTrainer, folder, load(), args(f"rounded-{name}", **saving), recipe=recipe)
        trainer.save_model(str(folder / f"rounded-{name}" / "final"))
        results["rounded"][name] = outcome(trainer)
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    results["best"] = refusal(
        lambda: run(SparseTrainer, folder, load(), args("best", **saving, **best), recipe=PRUNED)
    )
    saved = folder / "rounded-min_max" / "checkpoint-2"
    results["resumed"] = refusal(
        lambda: run(SparseTrainer, folder, load(), args("resumed"), saved, recipe=ROUNDED["min_max"])
    )
    own = FEATURES["logits"].override(["distillation.teacher=self"])
    results["own teacher"] = refusal(lambda: SparseTrainer(load(), args("own"), recipe=own))
    results["files"] = {name: files(folder / name) for name in ("Trainer", "SparseTrainer")}
    return results
