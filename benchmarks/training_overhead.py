"""Cost of a training step against plain `transformers.Trainer`, interleaved step by step in one process."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from hf_sparse import Recipe, SparseTrainer
from measuring import write_results

BATCH, LENGTH = 16, 32


class HandOver(TrainerCallback):
    """Times every step, then lets the next variant run its own."""

    def __init__(self, main: greenlet) -> None:
        self.main, self.started, self.seconds = main, 0.0, []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.main.switch()
        self.started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.main.switch()
        self.started = time.perf_counter()


def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=8000
    )
    return BertForSequenceClassification(config)


def data() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 8000, (BATCH * 20, LENGTH), generator=generator)
    ones = torch.ones(LENGTH, dtype=torch.long)
    return [{"input_ids": row, "attention_mask": ones, "labels": row[0] % 2} for row in ids]


def recipes(steps: int) -> dict[str, Recipe]:
    ramp = {"shape": "linear", "final": 0.9, "begin": 0, "ramp_end": steps - 1, "every": 10}
    # Until the last step but one.
    late = {"shape": "one_shot", "final": 0.5, "begin": steps - 1}
    groups = {"method": "group_lasso", "pattern": "4x4", "schedule": late, "allocation": "global"}
    return {
        "pruned to 90 %": Recipe.from_dict({"sparsity": {"schedule": {"shape": "constant", "final": 0.9}}}),
        "pruning, masks updated every 10 steps": Recipe.from_dict({"sparsity": {"schedule": ramp}}),
        "pushed by a group Lasso, blocks of 4x4": Recipe.from_dict({"sparsity": groups}),
        "distilled from a same-size teacher": Recipe.from_dict({"distillation": {"temperature": 2.0}}),
        "quantized, int8 weights and uint8 inputs": Recipe.from_dict({"quantization": {"freeze": "100%"}}),
    }


def variants(steps: int) -> dict[str, Callable[[TrainerCallback, TrainingArguments], Trainer]]:
    """Make each side of the comparison; plain Trainer stands twice, for the noise."""

    def plain(callback: TrainerCallback, args: TrainingArguments) -> Trainer:
        return Trainer(model(), args, train_dataset=data(), callbacks=[callback])

    def sparse(recipe: Recipe) -> Callable[[TrainerCallback, TrainingArguments], Trainer]:
        def make(callback: TrainerCallback, args: TrainingArguments) -> Trainer:
            teacher = model() if recipe.distillation else None
            trainer = SparseTrainer(model(), args, train_dataset=data(), recipe=recipe, teacher=teacher)
            # Added last, so that a step includes the callbacks of the package.
            trainer.add_callback(callback)
            return trainer

        return make

    made = {name: sparse(recipe) for name, recipe in recipes(steps).items()}
    return {"plain Trainer": plain, "plain Trainer again": plain, **made}


def measure(steps: int) -> dict[str, list[float]]:
    """Run all variants step about, in an order that turns by one each round."""
    timers, runs = {}, []
    for name, make in variants(steps).items():
        timers[name] = HandOver(getcurrent())
        args = TrainingArguments(
            tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=3e-4,
            save_strategy="no",
            logging_steps=50,
            disable_tqdm=True,
            use_cpu=True,
            report_to=[],
        )
        runs.append(greenlet(make(timers[name], args).train))
    for round_ in range(steps + 2):
        for run in (runs * 2)[round_ % len(runs) :][: len(runs)]:
            if not run.dead:
                run.switch()
    return {name: timer.seconds for name, timer in timers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=10)
    options = parser.parse_args()
    logging.set_verbosity_error()
    seconds = {name: values[options.warmup :] for name, values in measure(options.steps).items()}
    plain = seconds["plain Trainer"]
    rows = []
    for name, values in seconds.items():
        paired = statistics.quantiles(
            [ours / theirs for ours, theirs in zip(values, plain, strict=True)], n=4
        )
        rows.append(
            {
                "variant": name,
                "median ms": round(1000 * statistics.median(values), 2),
                "ratio of medians": round(statistics.median(values) / statistics.median(plain), 3),
                "ratio of means": round(statistics.mean(values) / statistics.mean(plain), 3),
                "paired ratio, quartiles": " ".join(f"{value:.3f}" for value in paired),
            }
        )
        print(rows[-1])
    settings = {
        "model": "BERT, 4 layers, 256 wide, random weights",
        "batch": f"{BATCH} x {LENGTH} tokens",
        "optimizer": "AdamW (fused)",
        "steps": options.steps,
        "first steps dropped": options.warmup,
    }
    print(write_results("training_overhead", "Cost of a training step", rows, settings, list(rows[0])))


if __name__ == "__main__":
    main()
