"""Runs under DDP whose steps read the same twelve rows, whatever number of processes there are."""

from pathlib import Path
from typing import Any

from hf_sparse import Recipe, SparseTrainer
from tests.support.runs import checkpoint, outcome
from tests.support.tiny import arguments, bert, sentences

ROWS_OF_A_STEP, STEPS, SAVED = 12, 6, 3
SCHEDULE = {"final": 0.8, "ramp_end": 5, "every": 1}
RECIPE = Recipe.from_dict(
    {
        "sparsity": {"pattern": "1x4", "schedule": SCHEDULE, "revive": True},
        "distillation": {"task": 0.5, "logits": 0.5},
        "quantization": {"freeze": 5},
    }
)


def replica(rank: int, folder: Path, processes: int, source: Path | None) -> dict[str, Any]:
    """Train from the beginning, or from the checkpoint of another run, as one process of a group."""
    trainer = SparseTrainer(
        # Without dropout, whose random numbers each process draws for itself.
        bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        arguments(
            folder / "run",
            per_device_train_batch_size=ROWS_OF_A_STEP // processes,
            max_steps=STEPS,
            save_strategy="steps",
            save_steps=SAVED,
        ),
        train_dataset=sentences(60),
        recipe=RECIPE,
        teacher=bert(seed=1),
    )
    resume = None if source is None else str(checkpoint(source / "run", SAVED))
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer) | {"masks": dict(trainer.sparsifier.masks.pack())}
