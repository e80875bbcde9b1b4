"""Settings that make a run fast on this machine: precision, attention, rows grouped by length."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_sparse import Recipe
from hf_sparse.data.length_groups import LengthGroups
from hf_sparse.environment import bf16_hardware, bf16_speedup
from hf_sparse.training.mlm import MaskedTokens

logger = logging.getLogger("hf_sparse.scripts")

GROUPED = "group_by_length"


def defaults(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the scripts that differ from those of `TrainingArguments`.

    Arguments in `given` take precedence. A recipe that quantizes trains in float32, since the grid of 8-bit
    weights is finer than bfloat16. Without training, models compute in float32, so that their scores do not
    depend on the machine.
    """
    chosen: dict[str, Any] = {"include_num_input_tokens_seen": "non_padding"}
    if not torch.accelerator.is_available():
        # transformers requires it for bfloat16 on a CPU.
        chosen["use_cpu"] = True
    if given.get("do_train"):
        chosen["train_sampling_strategy"] = GROUPED
        wanted = not given.get("fp16") and recipe.quantization is None
        if wanted and bf16_hardware(accelerator=not given.get("use_cpu")) is not None:
            chosen["bf16"] = True
    return chosen


def use_machine(training: TrainingArguments) -> None:
    """Log how the run computes, and warn if the CPU lacks bfloat16 products in hardware."""
    on_cpu = training.device.type == "cpu"
    hardware = bf16_hardware(accelerator=not on_cpu)
    precision = "float16" if training.fp16 else "float32"
    if training.bf16:
        precision = f"bfloat16 where autocast allows it ({hardware or 'not in hardware'})"
    threads = f", {torch.get_num_threads()} threads" if on_cpu else ""
    order = f"; rows in order {training.train_sampling_strategy}" if training.do_train else ""
    logger.info(f"Computing in {precision}{threads}{order}.")
    if training.bf16 and on_cpu and hardware is None:
        logger.warning(
            f"--bf16 on a processor that does not multiply bfloat16 in hardware: a matrix product is "
            f"{1 / bf16_speedup():.1f} times as slow as in float32 here; leave --bf16 out."
        )


def attention(asked: str | None, training: TrainingArguments) -> str | None:
    """Return the attention implementation: as asked, or the one that trains fastest here.

    On a CPU in bfloat16, the backward pass of fused attention takes up to twice as long as that of eager
    attention.
    """
    if asked is None and training.do_train and training.bf16 and training.device.type == "cpu":
        return "eager"
    return asked


def arrange(
    rows: Dataset | MaskedTokens | None, training: TrainingArguments, max_tokens: int | None
) -> Dataset | MaskedTokens | LengthGroups | None:
    """Return the training rows in the order asked for; set `max_steps` from a budget of tokens.

    Rows grouped by length are ordered by `LengthGroups`, which a resumed run repeats. Evaluation rows keep
    their order; transformers would reorder them too.
    """
    grouped = training.train_sampling_strategy == GROUPED
    if grouped:
        training.train_sampling_strategy = "sequential"
    if rows is None or not (grouped or max_tokens):
        return rows
    tokens = rows.examples if isinstance(rows, MaskedTokens) else rows
    lengths = [len(ids) for ids in tokens["input_ids"]]
    batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    if max_tokens is not None:
        training.max_steps = max(1, round(max_tokens / (batch * sum(lengths) / len(lengths))))
        logger.info(f"{max_tokens:,} tokens are about {training.max_steps:,} steps of {batch} rows.")
    seed = training.seed if training.data_seed is None else training.data_seed
    return LengthGroups(rows, lengths, batch, seed) if grouped else rows
