"""Pruning runs of the tested architectures, with what must hold at every step of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    default_data_collator,
)

from hf_sparse import Recipe, SparseSeq2SeqTrainer, SparseTrainer
from hf_sparse.targets import Target
from tests.support.zoo import Architecture

STEPS = 8


def recipe(pattern: str, final: float) -> Recipe:
    """Magnitude pruning by a cubic ramp over the first half of the run, updated at every step."""
    schedule = {"final": final, "shape": "cubic", "every": 1}
    return Recipe.from_dict({"sparsity": {"pattern": pattern, "schedule": schedule}})


def trainer_of(
    architecture: Architecture,
    folder: Path,
    recipe: Recipe,
    model: PreTrainedModel | None = None,
    **changes: Any,
) -> SparseTrainer | SparseSeq2SeqTrainer:
    model = architecture.model() if model is None else model
    kind = SparseSeq2SeqTrainer if model.config.is_encoder_decoder else SparseTrainer
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
    }
    arguments = Seq2SeqTrainingArguments(output_dir=str(folder), **(settings | changes))
    rows = architecture.data()
    return kind(model, arguments, train_dataset=rows, eval_dataset=rows[:4], recipe=recipe)


@dataclass(frozen=True)
class Run:
    """A finished run, the directory that its model was saved in, and what was watched."""

    architecture: Architecture
    trainer: Trainer
    folder: Path
    watch: "Watch"

    @property
    def model(self) -> PreTrainedModel:
        return self.trainer.model

    @property
    def targets(self) -> list[Target]:
        return list(self.trainer.sparsifier.masks.targets)

    def loaded(self) -> PreTrainedModel:
        """Load what was saved, by the model's own class."""
        return type(self.model).from_pretrained(self.folder)


class Watch(TrainerCallback):
    """Counts the numbers that should be zero, because their weight is removed, and are not."""

    def __init__(self, trainer: SparseTrainer) -> None:
        self.trainer = trainer
        self.gradients: list[int] = []
        self.optimizer: list[int] = []
        self.weights: list[int] = []

    def _count(self, values: list[tuple[str, torch.Tensor | None]]) -> int:
        masks = self.trainer.sparsifier.masks
        return sum(int(held[~masks[name]].count_nonzero()) for name, held in values if held is not None)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        targets = self.trainer.sparsifier.masks.targets
        self.gradients.append(self._count([(target.name, target.gradient) for target in targets]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        targets = self.trainer.sparsifier.masks.targets
        self.weights.append(self._count([(target.name, target.weight) for target in targets]))
        moments = [
            (target.name, target.view(moment))
            for target in targets
            for moment in moments_of(self.trainer, target)
        ]
        self.optimizer.append(self._count(moments))


def moments_of(trainer: Trainer, target: Target) -> list[torch.Tensor]:
    """Return Adam's moments of the parameter that a target lies in, none before it has had a gradient."""
    state = trainer.optimizer.state.get(target.parameter, {})
    return [state[name] for name in ("exp_avg", "exp_avg_sq") if name in state]


def train(architecture: Architecture, folder: Path, pattern: str, final: float) -> Run:
    trainer = trainer_of(architecture, folder / "checkpoints", recipe(pattern, final))
    watch = Watch(trainer)
    trainer.add_callback(watch)
    trainer.train()
    trainer.save_model(folder / "model")
    return Run(architecture, trainer, folder / "model", watch)


def logits(model: nn.Module, architecture: Architecture) -> torch.Tensor:
    """Return what a model says of the first rows of its data."""
    batch = default_data_collator(architecture.data()[:4])
    with torch.no_grad():
        return model.eval()(**batch).logits
