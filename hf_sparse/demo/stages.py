"""One stage of the demo: a training run that writes a plain Hugging Face directory, whole or not at all."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_sparse.atomic.directories import replace_directory
from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.checkpoint.saved_files import weight_bytes
from hf_sparse.demo.learning_tasks import Task
from hf_sparse.demo.settings import Training
from hf_sparse.metrics.pretrain import most_likely
from hf_sparse.readers import read_json
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.report.sizes import sizes_as_dict
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.training.trainer import SparseTrainer

UNFINISHED, PACKED_FORM = ".unfinished", "packed"
_RECORD = "stage.json"
_WARM_UP, _WEIGHT_DECAY, _EVALUATION_BATCH = 0.05, 0.01, 64


@dataclass(frozen=True)
class Outcome:
    """Results of a finished stage; `log` holds the Trainer's log entries with a loss.

    `bytes` is the size of its weights on disk. If the stage quantizes, that is the size of the packed file,
    the scores are those of the quantized model, and `sizes` is what `sizes_as_dict` returns.
    """

    name: str
    fingerprint: str
    recipe: dict
    training: dict
    seconds: float
    loss: float
    accuracy: float
    sparsity: float
    bytes: int
    log: list[dict[str, float]]
    sizes: dict | None = None


@dataclass(frozen=True)
class Stage:
    """One stage. Everything that changes its outcome is part of its fingerprint.

    `start` and `teacher` are outcomes of earlier stages; the start of the first one is the fingerprint of the
    base model. `facts` go into the record of the run and change nothing.
    """

    name: str
    task: Task
    training: Training
    recipe: Recipe
    seed: int
    start: Outcome | str
    teacher: Outcome | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self, sources: str) -> str:
        """Return a hash of all that determines the outcome; `sources` is the hash of the data."""
        parents = [self.start, self.teacher]
        hashes = [parent.fingerprint if isinstance(parent, Outcome) else parent for parent in parents]
        parts = [self.task.name, asdict(self.training), self.recipe.digest(), self.seed, hashes, sources]
        parts += [_WARM_UP, _WEIGHT_DECAY]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_outcome(directory: Path) -> Outcome | None:
    """Read the outcome of a finished stage; None if it is missing or unreadable."""
    try:
        return Outcome(**read_json(directory / _RECORD, "record", "run the stage again"))
    except (OSError, ValueError, TypeError):
        return None


def require_own_directories(home: Path, names: Iterable[str]) -> None:
    """Raise `ValueError` if a stage would replace a directory that holds anything but a stage."""
    for name in names:
        directory = home / name
        if directory.exists() and not (directory / _RECORD).exists():
            raise ValueError(
                f"{directory} was not written by this demo and would be replaced; "
                "choose another --output-dir, or move it away"
            )


def run_stage(
    stage: Stage,
    home: Path,
    fingerprint: str,
    tokenizer: PreTrainedTokenizerBase,
    load_start: Callable[[], PreTrainedModel],
    progress: TrainerCallback,
) -> Outcome:
    """Train in the folder of unfinished stages, then put the result in place of an earlier one."""
    staged = home / UNFINISHED / stage.name
    began = time.perf_counter()
    # Before the model is loaded, so that every model gets the same new head for the task.
    set_seed(stage.seed)
    model = load_start()
    teacher = None if stage.teacher is None else stage.task.load(home / stage.teacher.name)
    trainer = _trainer(stage, staged, model, teacher, tokenizer, progress)
    trainer.facts |= stage.facts
    trainer.train()
    scores = trainer.evaluate()
    sparsity = measure_sparsity(trainer.model).overall
    trainer.save_model()
    trainer.save_state()
    counted = {"eval_samples": len(stage.task.validation), "sparsity": sparsity}
    trainer.save_metrics("eval", scores | counted)
    sizes = None if trainer.quantizer is None else _pack(model, tokenizer, staged / PACKED_FORM)
    outcome = Outcome(
        name=stage.name,
        fingerprint=fingerprint,
        recipe=stage.recipe.to_dict(),
        training=asdict(stage.training),
        seconds=round(time.perf_counter() - began, 1),
        loss=scores["eval_loss"],
        accuracy=scores["eval_accuracy"],
        sparsity=sparsity,
        bytes=weight_bytes(str(staged)) if sizes is None else sizes["file_bytes"],
        log=[line for line in trainer.state.log_history if "loss" in line],
        sizes=sizes,
    )
    write_atomically(staged / _RECORD, json.dumps(asdict(outcome), indent=1).encode())
    replace_directory(staged, home / stage.name)
    return outcome


def _pack(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> dict:
    sizes = save_packed(model, directory)
    tokenizer.save_pretrained(directory)
    return sizes_as_dict(sizes)


def _trainer(
    stage: Stage,
    staged: Path,
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    progress: TrainerCallback,
) -> SparseTrainer:
    trainer = SparseTrainer(
        model=model,
        args=_arguments(stage, staged),
        train_dataset=stage.task.train,
        eval_dataset=stage.task.validation,
        data_collator=stage.task.collate,
        processing_class=tokenizer,
        compute_metrics=stage.task.score,
        preprocess_logits_for_metrics=most_likely,
        callbacks=[*(callback() for callback in stage.task.callbacks), progress],
        recipe=stage.recipe,
        teacher=teacher,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(stage: Stage, staged: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(staged),
        max_steps=stage.training.steps,
        learning_rate=stage.training.learning_rate,
        per_device_train_batch_size=stage.training.batch,
        per_device_eval_batch_size=_EVALUATION_BATCH,
        train_sampling_strategy=stage.task.sampling,
        warmup_steps=_WARM_UP,
        weight_decay=_WEIGHT_DECAY,
        logging_steps=max(1, stage.training.steps // 100),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=stage.seed,
    )
