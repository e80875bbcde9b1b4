"""What the demo does with its finished models: measure latency, and train and merge an adapter."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments, set_seed

from hf_sparse.adapters.lora import SparseLoraConfig
from hf_sparse.adapters.merge import merge_adapter
from hf_sparse.atomic.files import write_atomically
from hf_sparse.benchmark.backends import REFERENCE
from hf_sparse.benchmark.eager import held_bytes
from hf_sparse.benchmark.inputs import plain_copy
from hf_sparse.benchmark.latency import Prepared, limited, measure
from hf_sparse.checkpoint.load import load_model
from hf_sparse.demo.learning_tasks import Task
from hf_sparse.demo.settings import Training
from hf_sparse.demo.stages import PACKED_FORM
from hf_sparse.report.tables import narrow_table
from hf_sparse.runs.latency import LatencyReport, LatencyRow, machine
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.from_disk import load
from hf_sparse.targets import find_targets
from hf_sparse.training.trainer import SparseTrainer

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
    def _own(self) -> LatencyRow:
        return next(row for row in self.latency.rows if row.own)

    @property
    def _pytorch(self) -> LatencyRow:
        return next(row for row in self.latency.rows if not row.own)

    @property
    def milliseconds(self) -> float:
        """The median in the CPU runtime."""
        return self._own.median_ms

    @property
    def pytorch_milliseconds(self) -> float:
        return self._pytorch.median_ms

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
    plain = plain_copy(load_model(directory))
    texts = [task.validation[row]["input_ids"] for row in range(len(task.validation))]
    inputs = {"input_ids": torch.tensor([max(texts, key=len)])}
    note = "" if kernels else "Simulated in PyTorch: its C++ is not compiled here."
    models = [
        Prepared("hf_sparse", True, lambda: _run(fast, inputs), held_bytes(fast), note),
        Prepared(REFERENCE, False, lambda: _run(plain, inputs), held_bytes(plain)),
    ]
    with limited(_THREADS):
        reference = models[1].call()
        rows = measure(models, reference, range(_ROUNDS))
    latency = LatencyReport(
        directory.name,
        type(plain).__name__,
        1,
        inputs["input_ids"].shape[1],
        _THREADS,
        machine(None if kernels is None else kernels.path),
        REFERENCE,
        reference.abs().max().item(),
        rows,
        {},
    )
    content = json.dumps(latency.to_dict(), indent=1)
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
        f"{speed.pytorch_milliseconds / speed.milliseconds:.1f}x",
    )
    return table


def _run(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def _accuracy(model: PreTrainedModel, task: Task) -> float:
    rows = [task.validation[row] for row in range(len(task.validation))]
    right = 0
    for start in range(0, len(rows), _BATCH):
        batch = task.collate(rows[start : start + _BATCH])
        labels = batch.pop("labels")
        right += int((_run(model, batch).argmax(-1) == labels).sum())
    return right / len(rows)


STEPS = 10
_RANK, _ROWS = 8, 16


@dataclass(frozen=True)
class Adapted:
    """The merged model beside its base.

    `sparsity` is that of the merged model, `lost` the number of zeros of the base that it lost. `moved` is
    the largest change of a logit by the adapter, `difference` the largest by merging.
    """

    steps: int
    sparsity: float
    lost: int
    moved: float
    difference: float

    def __str__(self) -> str:
        kept = "all zeros of its base" if not self.lost else f"{self.lost:,} zeros fewer than its base"
        return (
            f"{self.steps} steps of an adapter moved outputs of the transferred model by up to "
            f"{self.moved:.2g}. Merged, it has {kept} ({self.sparsity:.1%}), and outputs move by "
            f"{self.difference:.1g}."
        )


def try_adapter(directory: Path, task: Task, training: Training, seed: int) -> Adapted:
    """Train an adapter on the model in a directory and merge it in memory; the directory does not change."""
    from peft import get_peft_model

    set_seed(seed)
    base = task.load(directory).eval()
    zeros, before = _zeros(base), _logits(base, task)
    layers = [name.removesuffix(".weight") for name in zeros]
    adapter = SparseLoraConfig(r=_RANK, target_modules=layers, task_type="SEQ_CLS")
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # peft uses a deprecated name of transformers.
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(base, adapter)
        trainer = SparseTrainer(
            model=model,
            args=TrainingArguments(
                folder,
                max_steps=STEPS,
                learning_rate=training.learning_rate,
                per_device_train_batch_size=training.batch,
                train_sampling_strategy=task.sampling,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=torch.cuda.is_available(),
                seed=seed,
            ),
            train_dataset=task.train,
            data_collator=task.collate,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    adapted = _logits(model.eval(), task)
    merged = merge_adapter(model)
    now = _zeros(merged)
    total = sum(part.numel() for part in now.values())
    return Adapted(
        STEPS,
        sum(int(part.sum()) for part in now.values()) / total,
        sum(int((part & ~now[name]).sum()) for name, part in zeros.items()),
        (adapted - before).abs().max().item(),
        (_logits(merged, task) - adapted).abs().max().item(),
    )


def _zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return masks of the zeros of the prunable weights, by name, on the CPU."""
    return {target.name: target.weight.detach().cpu() == 0 for target in find_targets(model)}


def _logits(model: nn.Module, task: Task) -> Tensor:
    rows = [task.validation[row] for row in range(min(_ROWS, len(task.validation)))]
    batch = task.collate([{name: value for name, value in row.items() if name != "labels"} for row in rows])
    device = next(model.parameters()).device
    with torch.no_grad():
        return model(**{name: value.to(device) for name, value in batch.items()}).logits.cpu()
