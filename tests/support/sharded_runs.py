"""What processes that shard one model do in a group, and the same in one process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_sparse import SparseTrainer
from tests.support.engines import let_accelerate_shard, load_sharded, sharded_arguments, whole_weights
from tests.support.runs import checkpoint
from tests.support.tiny import arguments, bert, sentences

STATES = ("FULL_STATE_DICT", "SHARDED_STATE_DICT")
BATCH = 8
STEPS = 4


def calm(seed: int = 0, **config: Any) -> Any:
    """A model without dropout, whose losses do not depend on which process has which rows."""
    return bert(seed, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **config)


def settings(folder: Path, processes: int, **changes: Any) -> dict[str, Any]:
    """Arguments of a short run over the same rows in each step, whatever the number of processes."""
    return {
        "directory": folder,
        "per_device_train_batch_size": BATCH // processes,
        "per_device_eval_batch_size": BATCH // processes,
        "max_steps": STEPS,
        "weight_decay": 0.1,
        **changes,
    }


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def files(directory: Path) -> list[str]:
    return sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
