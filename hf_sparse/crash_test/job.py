"""The run that a crash test repeats, and one process of it: `python -m hf_sparse.crash_test.job TASK`.

Model, data and training arguments are the same in any process.
"""

import io
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    TrainingArguments,
    set_seed,
)

from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.load import load_model, load_tokenizer
from hf_sparse.crash_test.moments import PROCESSES, Kill, Timeline
from hf_sparse.crash_test.snapshot import take
from hf_sparse.data.calibration import TextBatches, load_texts
from hf_sparse.data.positions import most_tokens
from hf_sparse.distillation.teacher import load_teacher
from hf_sparse.readers import read_json
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.targets import find_targets
from hf_sparse.training.trainer import SparseTrainer

OUTPUT, END = "output", "end"
# Passes over the data in a run, so that it crosses the ends of some.
_PASSES = 3
_TOKENS, _WORDS = 16, 128


@dataclass(frozen=True)
class Job:
    """A training run that can be made again in any process, bit for bit.

    `recipe` is its mapping. Without `model` a new tiny BERT is trained, without `dataset` on random tokens.
    Rows of classifiers get made-up labels: the run is about what is saved, not about what is learned.
    `batch` is the number of rows in a micro-batch of each of the `processes`; `save_steps` is the number of
    steps between checkpoints, by default about eight in a run.
    """

    recipe: Mapping[str, Any]
    max_steps: int = 24
    seed: int = 0
    model: str | None = None
    teacher: str | None = None
    dataset: str | None = None
    text_columns: tuple[str, ...] = ()
    processes: int = 1
    batch: int = 4
    save_steps: int = 0

    def __post_init__(self) -> None:
        if self.max_steps < 2:
            raise ValueError(f"a run to interrupt has at least 2 steps, got {self.max_steps}")
        if self.dataset is not None and self.model is None:
            raise ValueError("a dataset is read by a model's tokenizer; give the model as well")
        if self.teacher is not None and self.model is None:
            raise ValueError("a teacher teaches a given model; give the model as well")
        object.__setattr__(self, "save_steps", self.save_steps or max(1, self.max_steps // 8))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        return asdict(self)

    def make_trainer(self, output_dir: Path) -> SparseTrainer:
        """Return a new trainer of this run; raise `ValueError` if recipe, model and data do not fit."""
        recipe = Recipe.from_dict(self.recipe)
        set_seed(self.seed)
        model = self._model(recipe)
        return SparseTrainer(
            model=model,
            args=self._arguments(output_dir),
            train_dataset=self._rows(model),
            recipe=recipe,
            teacher=self._teacher(recipe, model),
        )

    def _arguments(self, output_dir: Path) -> TrainingArguments:
        return TrainingArguments(
            output_dir=str(output_dir),
            max_steps=self.max_steps,
            per_device_train_batch_size=self.batch,
            gradient_accumulation_steps=2,
            learning_rate=1e-3 if self.model is None else 5e-5,
            warmup_steps=2,
            weight_decay=0.1,
            logging_steps=1,
            save_steps=self.save_steps,
            save_total_limit=2,
            # Seconds that a process waits for the others.
            ddp_timeout=300,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            seed=self.seed,
        )

    def _model(self, recipe: Recipe) -> PreTrainedModel:
        if self.model is not None:
            return load_model(self.model, restore=False, strict=False)
        model = _tiny()
        if recipe.sparsity is not None and recipe.sparsity.schedule is None:
            _remove_half(model)
        return model

    def _teacher(self, recipe: Recipe, model: PreTrainedModel) -> PreTrainedModel | None:
        if recipe.distillation is None or recipe.distillation.teacher != "given":
            return None
        if self.model is None:
            return _tiny()
        return load_teacher(self.teacher or self.model, model)

    def _rows(self, model: PreTrainedModel) -> list[dict[str, Any]]:
        """Return the training set: a few passes over it make the run."""
        count = max(1, self.max_steps // _PASSES) * 2 * self.batch * self.processes - 1
        rows = list(self._texts(model, count) if self.dataset else _random_tokens(model, count, self.seed))
        kind = type(model).__name__
        return [row | _labels(kind, row["input_ids"], index, model) for index, row in enumerate(rows)]

    def _texts(self, model: PreTrainedModel, count: int) -> list[dict[str, Any]]:
        tokenizer = load_tokenizer(self.model or "")
        if tokenizer is None:
            raise ValueError(
                f"{self.model} is saved without a tokenizer, which --dataset-name needs; save it there"
            )
        length = min(_TOKENS, most_tokens(model) or _TOKENS)
        accepted = ("input_ids", "attention_mask", "token_type_ids")
        texts = load_texts(self.dataset or "", self.text_columns, count)
        batches = TextBatches(texts, tokenizer, accepted, 1, length)
        rows = [{name: value[0] for name, value in batch.items()} for batch in batches]
        return [_padded(row, length, tokenizer.pad_token_id or 0) for row in rows]


def _padded(row: Mapping[str, Tensor], length: int, padding: int) -> dict[str, Tensor]:
    missing = length - len(row["input_ids"])
    return {
        name: nn.functional.pad(value, (0, missing), value=padding if name == "input_ids" else 0)
        for name, value in row.items()
    }


def _random_tokens(model: PreTrainedModel, count: int, seed: int) -> list[dict[str, Any]]:
    vocabulary = model.config.get_text_config().vocab_size
    length = min(_TOKENS, most_tokens(model) or _TOKENS)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(min(10, vocabulary - 1), vocabulary, (count, length), generator=generator)
    mask = torch.ones(length, dtype=torch.long)
    return [{"input_ids": row, "attention_mask": mask} for row in ids]


def _labels(kind: str, ids: Tensor, index: int, model: PreTrainedModel) -> dict[str, Any]:
    """Return labels of a row for a class of models; nothing for a model without a known head."""
    if kind.endswith("ForSequenceClassification"):
        classes = model.config.num_labels or 1
        return {"labels": float(index % 3) if classes == 1 else index % classes}
    if kind.endswith("ForTokenClassification"):
        return {"labels": ids % (model.config.num_labels or 1)}
    if kind.endswith("ForQuestionAnswering"):
        return {"start_positions": index % len(ids), "end_positions": len(ids) - 1}
    if kind.endswith(("LM", "LMHeadModel", "ForConditionalGeneration", "ForPreTraining")):
        return {"labels": ids.clone()}
    return {}


def _tiny() -> PreTrainedModel:
    """Return a small model with random weights."""
    # Terms that compare attention need it, and attention without dropout.
    eager: dict[str, Any] = {"attn_implementation": "eager"}
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=_WORDS,
        max_position_embeddings=_TOKENS,
        attention_probs_dropout_prob=0.0,
        **eager,
    )
    return BertForSequenceClassification(config)


def _remove_half(model: PreTrainedModel) -> None:
    """Zero the smaller half of every target, for recipes that keep the zeros of a sparse model."""
    with torch.no_grad():
        for target in find_targets(model):
            sizes = target.weight.abs()
            target.weight[sizes < sizes.flatten().median()] = 0.0


def train(task: Path, quiet: bool = False) -> None:
    """Run the task of a file, which may end in this process's death; leave results beside the file.

    They are `steps/RANK/STEP.pt`, the state after each step; `calls-RANK.json`, how many calls were counted;
    `error-RANK.json` if the run failed. With `quiet` nothing is printed.
    """
    rank = int(os.environ.get("RANK", "0"))
    # tqdm's own lock is a semaphore, which multiprocessing reports as leaked where a process is killed.
    tqdm.set_lock(threading.RLock())
    if "WORLD_SIZE" in os.environ and "OMP_NUM_THREADS" not in os.environ:
        # As torchrun does, or processes would compete for the same cores.
        torch.set_num_threads(1)
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    try:
        write_atomically(task.parent / PROCESSES / f"{os.getpid()}", b"")
        _train(read_json(task, "task", "start the test again"), task.parent, rank)
    except Exception as error:
        said = {"kind": type(error).__name__, "message": f"{error}", "traceback": traceback.format_exc()}
        write_atomically(task.parent / f"error-{rank}.json", json.dumps(said).encode())
        raise


def _train(task: dict[str, Any], folder: Path, rank: int) -> None:
    job = Job(**task["job"])
    # transformers 5.17 loads the optimizer of several processes to "cpu:0", a place that torch does not know.
    torch.serialization.register_package(0, lambda storage: None, _restore)
    trainer = job.make_trainer(folder / OUTPUT)
    trainer.remove_callback(PrinterCallback)
    kill = Kill.from_dict(task["kill"]) if task["kill"] and task["kill"]["rank"] == rank else None
    left = 1 + job.max_steps // task["every"]

    def keep(name: str) -> None:
        buffer = io.BytesIO()
        torch.save(take(trainer), buffer)
        file = folder / "steps" / f"{rank}" / f"{name}.pt"
        _require_room(folder, 2 * left * job.processes * len(buffer.getvalue()))
        write_atomically(file, buffer.getvalue())

    def ended() -> None:
        nonlocal left
        step = trainer.state.global_step
        if step % task["every"] == 0:
            keep(f"{step}")
            left -= 1

    timeline = Timeline(task["counted"], kill, task["calls"].get(f"{rank}", {}), folder, ended)
    trainer.add_callback(timeline)
    trainer.train(resume_from_checkpoint=True if task["resume"] else None)
    keep(END)
    write_atomically(folder / f"calls-{rank}.json", json.dumps(timeline.calls).encode())


def _require_room(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(
            f"the states of all steps take about {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB "
            "left; take a smaller model or fewer steps, or set TMPDIR to a larger disk"
        )


def _restore(storage: Any, location: str) -> Any:
    return storage if location == "cpu:0" else None


if __name__ == "__main__":
    train(Path(sys.argv[1]))
