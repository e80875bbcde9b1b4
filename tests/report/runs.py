"""Runs made of files alone, as training leaves them, with small models."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_sparse import find_targets
from hf_sparse.runs.comparison import Comparison, compare_runs
from hf_sparse.runs.latency import LatencyReport, LatencyRow
from hf_sparse.runs.measured_run import MeasuredRun, gather_runs
from tests.support.tiny import bert

LOG = [
    {"step": 5, "loss": 0.9, "learning_rate": 1e-3, "sparsity": 0.2, "loss_task": 1.0, "loss_logits": 0.8},
    {"step": 10, "loss": 0.5, "learning_rate": 5e-4, "sparsity": 0.5, "loss_task": 0.6, "loss_logits": 0.4},
    {"step": 10, "eval_loss": 0.7, "eval_accuracy": 0.75},
]
PRUNED = {
    "sparsity": {"method": "magnitude", "schedule": {"final": 0.5}},
    "distillation": {"task": 0.5, "logits": 0.5},
}


def write_run(
    directory: Path,
    *,
    sparsity: float | None = 0.5,
    accuracy: float | None = 0.75,
    samples: int = 40,
    recipe: dict[str, Any] | None = None,
    log: list[dict[str, Any]] = LOG,
    milliseconds: float | None = None,
    latency: dict[str, Any] | None = None,
    **record: Any,
) -> Path:
    """Write a run; without `sparsity` it has no weights."""
    directory.mkdir(parents=True)
    if sparsity is None:
        (directory / "config.json").write_text("{}")
    else:
        pruned(sparsity).save_pretrained(directory)
    whole = {
        "format_version": 1,
        "date": "2026-01-01T00:00:00+00:00",
        "architecture": "BertForSequenceClassification",
        "base_model": None,
        "teacher": None,
        "recipe": PRUNED if recipe is None else recipe,
        "step": 10,
        "total_steps": 10,
        "train_samples": 80,
        "seconds": 75.0,
        "arguments": {"learning_rate": 1e-3, "seed": 42},
        "facts": {"dataset": "letters"},
        "hardware": {"processor": "Abacus", "cores": 2},
        "versions": {"torch": "2.13.0"},
    }
    files: dict[str, Any] = {"hf_sparse_run": whole | record}
    if log:
        files["trainer_state"] = {"log_history": log}
    if accuracy is not None:
        files["eval_results"] = {"eval_accuracy": accuracy, "eval_loss": 0.7, "eval_samples": samples}
    if milliseconds is not None:
        files["latency"] = latency_of(milliseconds) | (latency or {})
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def latency_of(milliseconds: float) -> dict[str, Any]:
    """Return what `hf-sparse benchmark --json` would write."""
    rows = (
        LatencyRow.measured("hf_sparse fuse", True, (milliseconds / 1000,), 1000, 0.0),
        LatencyRow.measured("PyTorch float32", False, (0.099,), 4000, 0.0),
    )
    machine = {"processor": "Abacus", "cores": 2, "system": "Linux", "kernels": "avx2", "versions": {}}
    return LatencyReport("run", "Bert", 1, 32, 1, machine, "PyTorch float32", 1.0, rows, {}).to_dict()


def pruned(sparsity: float) -> PreTrainedModel:
    """Return a classifier of one layer whose weights are zero in their first rows."""
    model = bert(num_hidden_layers=1)
    with torch.no_grad():
        for target in find_targets(model):
            target.weight[: int(sparsity * target.weight.shape[0])] = 0.0
    return model


def compared(*directories: Path) -> Comparison:
    return compare_runs(gather_runs(directories))


def measured(directory: Path) -> MeasuredRun:
    (run,) = compared(directory).runs
    return run
