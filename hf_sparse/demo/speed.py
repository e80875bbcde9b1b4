"""How fast the demo's last model is in the CPU runtime, and whether it answers there as it should."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_sparse.benchmark.eager import plain_copy, torch_floats
from hf_sparse.benchmark.field import Contender, Running
from hf_sparse.benchmark.latency import limited, measure
from hf_sparse.demo.lessons import Lesson
from hf_sparse.demo.stages import PACKED_FORM
from hf_sparse.report.tables import narrow_table
from hf_sparse.runtime.library import load_kernels
from hf_sparse.runtime.loading import load
from hf_sparse.training.loading import load_trained

_ROUNDS, _BATCH = 30, 64


@dataclass(frozen=True)
class Speed:
    """Medians of one text's latency in milliseconds on one thread, and the accuracy in the CPU runtime.

    `path` names the kernels; without them the runtime is PyTorch, simulating 8 bits.
    """

    path: str | None
    tokens: int
    milliseconds: float
    pytorch_milliseconds: float
    accuracy: float


def measure_speed(directory: Path, lesson: Lesson) -> Speed:
    """Measure the packed model of a stage that quantized, on a longest text and on the task."""
    fast, kernels = load(directory / PACKED_FORM), load_kernels()
    plain = plain_copy(load_trained(str(directory)))
    longest = max(lesson.validation, key=lambda row: len(row["input_ids"]))
    inputs = {"input_ids": torch.tensor([longest["input_ids"]])}
    contenders = [
        Contender("hf_sparse.runtime", True, Running(lambda: _logits(fast, inputs), 0)),
        Contender("PyTorch", False, torch_floats(plain, inputs)),
    ]
    with limited(1):
        ours, others = measure(contenders, contenders[1].running.call(), range(_ROUNDS))
    return Speed(
        kernels and kernels.path,
        inputs["input_ids"].shape[1],
        median(ours.seconds) * 1e3,
        median(others.seconds) * 1e3,
        _accuracy(fast, lesson),
    )


def speed_table(speed: Speed) -> Table:
    """Make a table of the model in the CPU runtime beside PyTorch."""
    table = narrow_table(f"a text of {speed.tokens} tokens, one thread", "latency", "accuracy", "")
    table.add_row("PyTorch, float32", f"{speed.pytorch_milliseconds:.2f} ms", "", "")
    table.add_row(
        f"hf_sparse.runtime, 8 bits ({speed.path or 'no compiler: simulated'})",
        f"{speed.milliseconds:.2f} ms",
        f"{speed.accuracy:.1%}",
        f"{speed.pytorch_milliseconds / speed.milliseconds:.1f}x",
    )
    return table


def _logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def _accuracy(model: PreTrainedModel, lesson: Lesson) -> float:
    rows: Sequence = lesson.validation
    right = 0
    for batch in DataLoader(rows, batch_size=_BATCH, collate_fn=lesson.collate):
        labels = batch.pop("labels")
        right += int((_logits(model, batch).argmax(-1) == labels).sum())
    return right / len(rows)
