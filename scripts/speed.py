"""What makes a run fast on the machine at hand: precision, threads, rows of one length side by side."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_sparse import Recipe
from hf_sparse.data.length_groups import LengthGroups
from hf_sparse.precision import bf16_hardware, bf16_speedup
from hf_sparse.training.mlm import MaskedTokens

logger = logging.getLogger("hf_sparse.scripts")

GROUPED = "group_by_length"


def defaults(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training arguments that the scripts choose, in place of those of transformers.

    `given` are the arguments that somebody gave, which stand. A recipe that quantizes trains in float32,
    since the grid of 8-bit weights is finer than bfloat16.
    """
    chosen = {"train_sampling_strategy": GROUPED, "include_num_input_tokens_seen": "non_padding"}
    if not torch.accelerator.is_available():
        # What transformers wants to hear before it lets a processor compute in bfloat16.
        chosen["use_cpu"] = True
    wanted = not given.get("fp16") and recipe.quantization is None
    if wanted and _hardware(bool(given.get("use_cpu"))) is not None:
        chosen["bf16"] = True
    return chosen


def use_machine(training: TrainingArguments) -> None:
    """Take all cores of this process, unless the environment says how many; say how the run computes."""
    on_cpu = training.device.type == "cpu"
    if on_cpu and training.world_size == 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    hardware = _hardware(on_cpu)
    precision = "float16" if training.fp16 else "float32"
    if training.bf16:
        precision = f"bfloat16 where autocast allows it ({hardware or 'not in hardware'})"
    threads = f", {torch.get_num_threads()} threads" if on_cpu else ""
    logger.info(f"Computing in {precision}{threads}; rows in order {training.train_sampling_strategy}.")
    if training.bf16 and on_cpu and hardware is None:
        logger.warning(
            f"--bf16 on a processor that does not multiply bfloat16 in hardware: a product of matrices is "
            f"{1 / bf16_speedup():.1f} times as slow as in float32 here; leave --bf16 out."
        )


def attention(asked: str | None, training: TrainingArguments) -> str | None:
    """Return which attention a model computes with: as asked, or what trains fastest here.

    On a processor the backward pass of fused attention takes up to twice as long in bfloat16 as that of
    single products.
    """
    if asked is None and training.do_train and training.bf16 and training.device.type == "cpu":
        return "eager"
    return asked


def arrange(
    rows: Dataset | MaskedTokens, training: TrainingArguments, max_tokens: int | None
) -> Dataset | LengthGroups:
    """Return the rows to train on in the order that is asked for; set the steps of a budget in tokens.

    Rows grouped by length come in an order of our own, which a resumed run repeats.
    """
    tokens = rows.examples if isinstance(rows, MaskedTokens) else rows
    lengths = [len(ids) for ids in tokens["input_ids"]]
    batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    if max_tokens is not None:
        if max_tokens < 1 or training.max_steps > 0:
            raise ValueError(
                f"--max_tokens {max_tokens} says how long to train, at least 1 token; leave out --max_steps, "
                "which says it too"
            )
        training.max_steps = max(1, round(max_tokens / (batch * sum(lengths) / len(lengths))))
        logger.info(f"{max_tokens:,} tokens are about {training.max_steps:,} steps of {batch} rows.")
    if training.train_sampling_strategy != GROUPED:
        return rows
    training.train_sampling_strategy = "sequential"
    return LengthGroups(rows, lengths, batch, training.data_seed or training.seed)


def _hardware(on_cpu: bool) -> str | None:
    return bf16_hardware(accelerator=not on_cpu)
