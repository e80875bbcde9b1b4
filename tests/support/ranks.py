"""The job of each of two processes that train together."""

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from hf_sparse import Recipe, SparseTrainer
from tests.support.lessons import LESSONS, TEMPERATURE, Gradients
from tests.support.pairs import make
from tests.support.runs import checkpoint, outcome
from tests.support.tiny import arguments, bert, sentences
from tests.support.together import run_together

RANKS = 2
TEACHING = Recipe.from_dict({"distillation": {"temperature": TEMPERATURE, "task": 0.3, "logits": 0.7}})


# With a wider teacher hidden states are compared through projections, which DDP does not know.
FEATURES = TEACHING.override(["distillation.hidden=0.5", "distillation.relations=0.6"])


def lesson(name: str, folder: Path, batch: int, features: bool = False) -> dict[str, Any]:
    """Distil one step over 16 rows, in two micro-batches of `batch` rows a process; return the outcome."""
    gradients = Gradients()
    trainer = SparseTrainer(
        LESSONS[name].make(0),
        arguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=2,
            num_train_epochs=1,
            max_steps=-1,
            max_grad_norm=0.0,
        ),
        train_dataset=LESSONS[name].rows(16),
        recipe=FEATURES if features else TEACHING,
        teacher=make("bert", 1, hidden_size=48) if features else LESSONS[name].make(1),
        callbacks=[gradients],
    )
    trainer.train()
    projections = [matrix.grad.clone() for matrix in trainer.distiller.parameters()]
    return {
        "gradients": gradients.steps,
        "line": trainer.state.log_history[0],
        "projections": projections,
        "learned": trainer.distiller.state(),
    }


def pruning_run(folder: Path, resume: Path | None = None) -> dict[str, Any]:
    """Prune with distillation, dropout and shuffling; return the outcome."""
    trainer = SparseTrainer(
        bert(),
        arguments(
            folder,
            per_device_train_batch_size=2,
            max_steps=8,
            save_strategy="steps",
            save_steps=3,
            save_total_limit=2,
        ),
        train_dataset=sentences(20),
        recipe=Recipe.preset("prune_ofa_90").override(["sparsity.schedule.every=1"]),
        teacher=bert(seed=1),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return outcome(trainer)


def pushing_run(folder: Path) -> int:
    """Push every checkpoint to a stand-in for the Hub; return the number of uploads this process began."""
    uploads: list[Future] = []

    def upload(**_: Any) -> Future:
        uploads.append(Future())
        uploads[-1].set_result(None)
        return uploads[-1]

    hub = SimpleNamespace(create_repo=lambda name, **_: SimpleNamespace(repo_id=name), upload_folder=upload)
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "push_to_hub": True}
    args = arguments(folder, hub_model_id="somebody/model", hub_strategy="checkpoint", **settings)
    with patch("transformers.trainer.hf_api", lambda: hub):
        SparseTrainer(bert(), args, train_dataset=sentences(8)).train()
    return len(uploads)


def work(rank: int, folder: Path) -> dict[str, Any]:
    """Do everything as one process of two."""
    results = {name: lesson(name, folder, batch=4) for name in ("masked", "causal", "classification")}
    results["features"] = lesson("classification", folder, batch=4, features=True)
    results["straight"] = pruning_run(folder / "run")
    results["pushed"] = pushing_run(folder / "pushed")
    results["resumed"] = pruning_run(folder / "again", resume=checkpoint(folder / "run", 6))
    return results


def train_together(folder: Path) -> list[dict[str, Any]]:
    """Run both processes; return the results of each, or raise `RuntimeError`."""
    return run_together(work, RANKS, folder)
