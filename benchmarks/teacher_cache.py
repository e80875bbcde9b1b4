"""Cost of a step that learns from a teacher, computed or read from a cache, against plain `Trainer`.

All variants of a task run step about in one process. The cache is filled before anything is timed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from hf_sparse import Recipe, SparseTrainer, TeacherCache
from measuring import write_results

VOCABULARY, LENGTH, BATCHES = 30522, 128, 8
STUDENT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TEACHER = STUDENT | {"num_hidden_layers": 12}
IGNORED = -100


class Timer(TrainerCallback):
    """Times every step, on the clock and on the processors, then lets the next variant run its own."""

    def __init__(self, main: greenlet) -> None:
        self.main, self.steps = main, []

    def _start(self) -> None:
        self.main.switch()
        self.started = time.perf_counter(), time.process_time()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        ended = time.perf_counter(), time.process_time()
        self.steps.append(tuple(end - start for end, start in zip(ended, self.started, strict=True)))
        self._start()


class Task:
    """A head with data and a recipe: student and teacher have random weights."""

    def __init__(self, kind: type[PreTrainedModel], batch: int, recipe: Recipe, labels: str) -> None:
        self.kind, self.batch, self.recipe = kind, batch, recipe
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(1000, VOCABULARY, (batch * BATCHES, LENGTH), generator=generator)
        ones = torch.ones(LENGTH, dtype=torch.long)
        kept = torch.rand(ids.shape, generator=generator) < 0.15
        targets = ids[:, 0] % 2 if labels == "classes" else ids.where(kept, torch.tensor(IGNORED))
        self.rows = [
            {"input_ids": row, "attention_mask": ones, "labels": label}
            for row, label in zip(ids, targets, strict=True)
        ]

    def model(self, sizes: dict[str, int], seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return self.kind(BertConfig(vocab_size=VOCABULARY, **sizes))

    def arguments(self, steps: int) -> TrainingArguments:
        return TrainingArguments(
            tempfile.mkdtemp(),
            per_device_train_batch_size=self.batch,
            max_steps=steps,
            learning_rate=1e-4,
            save_strategy="no",
            logging_steps=50,
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            report_to=[],
        )

    def plain(self, steps: int) -> Trainer:
        return Trainer(self.model(STUDENT, 0), self.arguments(steps), train_dataset=self.rows)

    def taught(self, steps: int, cache: TeacherCache | None) -> Trainer:
        return SparseTrainer(
            self.model(STUDENT, 0),
            self.arguments(steps),
            train_dataset=self.rows,
            recipe=self.recipe,
            teacher=self.model(TEACHER, 1),
            teacher_cache=cache,
        )


def tasks(batch: int) -> dict[str, Task]:
    logits = Recipe.from_dict({"distillation": {"task": 0.5, "logits": 0.5}})
    return {
        "two classes": Task(BertForSequenceClassification, batch, logits, "classes"),
        "masked words of 30,522": Task(BertForMaskedLM, batch, logits, "words"),
    }


def measure(task: Task, steps: int, directory: Path) -> dict[str, list[tuple[float, float]]]:
    """Run all variants of a task step about, in an order that turns by one each round."""
    cache = TeacherCache(directory)
    task.taught(BATCHES, cache).train()
    made: dict[str, Callable[[], Trainer]] = {
        "plain Trainer": lambda: task.plain(steps),
        "plain Trainer again": lambda: task.plain(steps),
        "live teacher": lambda: task.taught(steps, None),
        "cached teacher": lambda: task.taught(steps, cache),
    }
    timers, runs = {}, []
    for name, make in made.items():
        timers[name], trainer = Timer(getcurrent()), make()
        # Added last, so that a step includes the callbacks of the package.
        trainer.add_callback(timers[name])
        runs.append(greenlet(trainer.train))
    for round_ in range(steps + 2):
        for run in (runs * 2)[round_ % len(runs) :][: len(runs)]:
            if not run.dead:
                run.switch()
    return {name: timer.steps for name, timer in timers.items()}


def rows_of(
    task: str, measured: dict[str, list[tuple[float, float]]], kilobytes: float
) -> list[dict[str, Any]]:
    """Return a row for each variant: medians of both times, their ratios to plain Trainer, quartiles."""
    plain, rows = measured["plain Trainer"], []
    for name, steps in measured.items():
        wall, processors = ([1000 * step[kind] for step in steps] for kind in (0, 1))
        own, theirs = (statistics.median(processors), statistics.median(1000 * step[1] for step in plain))
        paired = [ours[1] / other[1] for ours, other in zip(steps, plain, strict=True)]
        rows.append(
            {
                "task": task,
                "variant": name,
                "median ms": round(statistics.median(wall), 1),
                "ratio": round(
                    statistics.median(wall) / statistics.median(1000 * step[0] for step in plain), 3
                ),
                "median CPU ms": round(own, 1),
                "CPU ratio": round(own / theirs, 3),
                "paired CPU ratio, quartiles": " ".join(
                    f"{value:.3f}" for value in statistics.quantiles(paired, n=4)
                ),
            }
        )
        if name == "cached teacher":
            rows[-1]["kB an example"] = round(kilobytes, 2)
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    logging.set_verbosity_error()
    rows = []
    for name, task in tasks(options.batch).items():
        with tempfile.TemporaryDirectory() as directory:
            measured = measure(task, options.steps, Path(directory))
            held = sum(path.stat().st_size for path in Path(directory).iterdir())
        kept = {variant: steps[options.warmup :] for variant, steps in measured.items()}
        rows += rows_of(name, kept, held / len(task.rows) / 1000)
    settings = {
        "student": "BERT, 6 layers, 384 wide, random weights",
        "teacher": "BERT, 12 layers, 384 wide, random weights",
        "batch": f"{options.batch} x {LENGTH} tokens",
        "cache": "the 64 largest logits of a token and the mass of the rest; all logits of two classes",
        "optimizer": "AdamW (fused)",
        "steps": options.steps,
        "first steps dropped": options.warmup,
    }
    print(
        write_results("teacher_cache", "Cost of a step with a cached teacher", rows, settings, list(rows[-1]))
    )


if __name__ == "__main__":
    main()
