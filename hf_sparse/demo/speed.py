"""Latency and accuracy of the demo's last model in the CPU runtime."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.benchmark.contenders import REFERENCE
from hf_sparse.benchmark.eager import held_bytes, plain_copy, torch_floats
from hf_sparse.benchmark.field import Contender, Running
from hf_sparse.benchmark.latency import limited, measure, rows_of
from hf_sparse.demo.lessons import Task
from hf_sparse.demo.stages import PACKED_FORM
from hf_sparse.report.latency import LatencyReport, latency_as_dict, machine
from hf_sparse.report.tables import narrow_table
from hf_sparse.runtime.library import load_kernels
from hf_sparse.runtime.loading import load
from hf_sparse.storage import write_atomically
from hf_sparse.training.loading import load_trained

_ROUNDS, _BATCH, _THREADS = 30, 64, 1
_FILE = "latency.json"


@dataclass(frozen=True)
class Speed:
    """Latency of one text in the CPU runtime and in PyTorch, and the accuracy in the CPU runtime.

    If `kernels` is None, nothing could be compiled, and the runtime is PyTorch, which simulates 8 bits.
    """

    latency: LatencyReport
    accuracy: float

    @property
    def kernels(self) -> str | None:
        return self.latency.machine["kernels"]

    @property
    def milliseconds(self) -> float:
        """The median in the CPU runtime."""
        return 1e3 * self.latency.best.median

    @property
    def pytorch_milliseconds(self) -> float:
        return 1e3 * self.latency.rival.median

    def as_dict(self) -> dict[str, object]:
        """Return the entry for the demo's results."""
        return {
            "path": self.kernels,
            "tokens": self.latency.length,
            "milliseconds": self.milliseconds,
            "pytorch_milliseconds": self.pytorch_milliseconds,
            "accuracy": self.accuracy,
        }


def measure_speed(directory: Path, task: Task) -> Speed:
    """Measure the packed model of a quantized stage: latency on the longest text, accuracy on the task.

    The latency is written beside the model in the form of `hf-sparse benchmark --json`.
    """
    fast, kernels = load(directory / PACKED_FORM), load_kernels()
    plain = plain_copy(load_trained(str(directory)))
    texts = [task.validation[row]["input_ids"] for row in range(len(task.validation))]
    inputs = {"input_ids": torch.tensor([max(texts, key=len)])}
    note = "" if kernels else "Simulated in PyTorch: its C++ is not compiled here."
    contenders = [
        Contender("hf_sparse", True, Running(lambda: _logits(fast, inputs), held_bytes(fast), note)),
        Contender(REFERENCE, False, torch_floats(plain, inputs)),
    ]
    with limited(_THREADS):
        reference = contenders[1].running.call()
        measured = measure(contenders, reference, range(_ROUNDS))
    latency = LatencyReport(
        directory.name,
        type(plain).__name__,
        1,
        inputs["input_ids"].shape[1],
        _THREADS,
        machine(None if kernels is None else kernels.path),
        REFERENCE,
        reference.abs().max().item(),
        rows_of(measured),
        {},
    )
    content = json.dumps(latency_as_dict(latency), indent=1)
    write_atomically(directory / _FILE, f"{content}\n".encode())
    return Speed(latency, _accuracy(fast, task))


def speed_table(speed: Speed) -> Table:
    """Return a table of the model in the CPU runtime beside PyTorch."""
    heading = f"a text of {speed.latency.length} tokens, one thread"
    table = narrow_table(heading, "latency", "accuracy", "")
    table.add_row("PyTorch, float32", f"{speed.pytorch_milliseconds:.2f} ms", "", "")
    table.add_row(
        f"hf_sparse.runtime, 8 bits ({speed.kernels or 'no compiler: simulated'})",
        f"{speed.milliseconds:.2f} ms",
        f"{speed.accuracy:.1%}",
        f"{speed.latency.speedup:.1f}x",
    )
    return table


def _logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def _accuracy(model: PreTrainedModel, task: Task) -> float:
    rows = [task.validation[row] for row in range(len(task.validation))]
    right = 0
    for start in range(0, len(rows), _BATCH):
        batch = task.collate(rows[start : start + _BATCH])
        labels = batch.pop("labels")
        right += int((_logits(model, batch).argmax(-1) == labels).sum())
    return right / len(rows)
