"""The cells of the table of engines: each case trained, or refused, as one process of an engine."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_sparse import SparseTrainer, find_targets
from tests.support.engine_table import CASES, ENGINES, Case
from tests.support.engines import let_accelerate_shard, load_sharded, sharded_arguments
from tests.support.sharded_runs import calm, losses
from tests.support.tiny import arguments, sentences

STEPS, ROWS = 3, 8
SHARED = "FSDP2"
LOADED = "FSDP2 at load time"


class FirstMasks(TrainerCallback):
    """Keeps the masks that a run begins with, before the first step."""

    trainer: Any = None
    masks: dict[str, bytes] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.masks is None and self.trainer.sparsifier is not None:
            self.masks = masks_of(self.trainer)


def cells(rank: int, folder: Path, engine: str) -> dict[str, dict[str, Any]]:
    """Train by every case as one process of an engine; return what came of each."""
    if engine == SHARED:
        let_accelerate_shard()
    # Made before models are loaded, since it starts the group of processes.
    _arguments(folder, engine)
    for sparse in (False, True):
        if rank == 0:
            student(sparse).save_pretrained(folder / f"student-{sparse}")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    return {name: cell(folder, engine, case) for name, case in CASES.items()}


def cell(folder: Path, engine: str, case: Case) -> dict[str, Any]:
    """Train by one case; return its outcome, or the message of its refusal before the first step."""
    sparse, place = case.method == "lock", hashlib.sha256(f"{engine} {case}".encode()).hexdigest()[:12]
    model = student(sparse)
    if engine == LOADED:
        model = load_sharded(folder / f"student-{sparse}", attn_implementation="eager")
    first = FirstMasks()
    teacher = calm(seed=1, hidden_size=case.width) if case.distillation else None
    try:
        trainer = SparseTrainer(
            model,
            _arguments(folder / place, engine),
            train_dataset=sentences(STEPS * ROWS),
            eval_dataset=sentences(4, seed=3),
            recipe=case.recipe,
            teacher=teacher,
            callbacks=[first],
        )
        first.trainer = trainer
        trainer.train()
    except ValueError as error:
        return {"refused": f"{error}"}
    trainer.save_model(str(folder / place))
    quantizer = trainer.quantizer
    return {
        "losses": losses(trainer),
        "scores": [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line],
        "first": first.masks,
        "masks": None if trainer.sparsifier is None else masks_of(trainer),
        "removed": None if trainer.sparsifier is None else removed(trainer),
        "ranges": {} if quantizer is None else quantizer.state(),
        "place": str(folder / place),
    }


def student(sparse: bool) -> Any:
    model = calm()
    if sparse:
        with torch.no_grad():
            for target in find_targets(model):
                target.weight[target.weight.abs() < 0.02] = 0.0
    return model


def masks_of(trainer: SparseTrainer) -> dict[str, bytes]:
    """Return the masks as a sidecar holds them."""
    return {name: bytes(values.numpy()) for name, values in trainer.sparsifier.masks.pack().items()}


def removed(trainer: SparseTrainer) -> dict[str, int]:
    masks = trainer.sparsifier.masks
    return {name: masks.removed(name) for name in masks.targets.names}


def _arguments(folder: Path, engine: str) -> Any:
    """Two micro-batches a step, gradients that are clipped, an evaluation in mid-run."""
    settings = {
        "per_device_train_batch_size": ROWS // 2 // ENGINES[engine].processes,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.5,
        # Otherwise Trainer multiplies the loss of an encoder by the number of processes.
        "average_tokens_across_devices": False,
        "max_steps": STEPS,
        "weight_decay": 0.1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_eval_batch_size": 4 // ENGINES[engine].processes,
    }
    return (sharded_arguments if engine == SHARED else arguments)(folder, **settings)
