"""Train a LoRA adapter on the demo's sparse model for ten steps and merge it: zeros and outputs stay."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments, set_seed

from hf_sparse.adapters.lora import SparseLoraConfig
from hf_sparse.adapters.merge import merge_adapter
from hf_sparse.demo.learning_tasks import Task
from hf_sparse.demo.settings import Training
from hf_sparse.targets import find_targets
from hf_sparse.training.trainer import SparseTrainer

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
