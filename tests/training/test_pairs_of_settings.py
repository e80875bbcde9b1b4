"""Precision, compilation, recomputation, accumulation and clipping, alone and in pairs, under every part.

What is compared with the same run without the setting is the way of the loss, and whether removed weights are
zero after each step. How much a setting changes is measured with Trainer itself, on an empty recipe.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import TrainerCallback

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.quantization.activations import observe, simulate
from tests.support.tiny import arguments, bert, sentences

STEPS = 6
DENSE = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Steps of 8 rows, in one micro-batch or two. The host divides clipped gradients by their norm, here always.
ONE_BATCH = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_grad_norm": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"bf16": True},
    "fp16": {},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
    "recomputed": {"gradient_checkpointing": True},
    "accumulated": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "clipped": {"max_grad_norm": 0.05},
}
PRUNING = {"pattern": "1x4", "schedule": {"final": 0.8, "ramp_end": "50%", "every": 1}}
SUDDEN = {"begin": "50%", "final": 0.8}
TEACHING = {"task": 0.5, "logits": 0.5, "hidden": 0.2}
ROUNDING = {"begin": 2, "freeze": 5}
RECIPES: dict[str, dict[str, Any]] = {
    "empty": {},
    "masks": {"sparsity": PRUNING},
    "remembered": {"sparsity": PRUNING | {"revive": True}},
    "group Lasso": {"sparsity": PRUNING | {"method": "group_lasso", "schedule": SUDDEN}},
    "movement": {"sparsity": PRUNING | {"method": "movement"}},
    "teacher": {"distillation": TEACHING},
    "rounding": {"quantization": ROUNDING},
    "masks and teacher": {"sparsity": PRUNING, "distillation": TEACHING},
    "masks and rounding": {"sparsity": PRUNING, "quantization": ROUNDING},
    "teacher and rounding": {"distillation": TEACHING, "quantization": ROUNDING},
    "all": {"sparsity": PRUNING, "distillation": TEACHING, "quantization": ROUNDING},
}


class Look(TrainerCallback):
    """Counts removed weights that are not zero after each step."""

    def __init__(self) -> None:
        self.wrong: list[dict[str, int]] = []
        self.trainer: SparseTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer is not None and self.trainer.sparsifier is not None:
            self.wrong.append(self.trainer.sparsifier.masks.nonzero_removed())


@cache
def losses(recipe: str, *settings: str) -> tuple[float, ...]:
    """Train and return the losses; fail if a removed weight is not zero, or the sparsity is wrong."""
    changes = dict(ONE_BATCH)
    for setting in settings:
        changes |= SETTINGS[setting]
    look, asked = Look(), Recipe.from_dict(RECIPES[recipe])
    with TemporaryDirectory() as folder:
        args = arguments(folder, max_steps=STEPS, **changes)
        trainer = SparseTrainer(
            bert(**DENSE),
            args,
            recipe=asked,
            teacher=None if asked.distillation is None else bert(seed=1, **DENSE),
            train_dataset=sentences(8 * STEPS),
            compute_loss_func=mean_over_rows,
            callbacks=[look],
        )
        look.trainer = trainer
        if "fp16" in settings:
            in_half_precision(trainer)
        trainer.train()
        assert not any(look.wrong)
        if asked.sparsity is not None:
            assert len(look.wrong) == STEPS
            assert trainer.sparsifier.masks.sparsity == pytest.approx(0.8, abs=0.01)
        trainer.save_model(str(Path(folder) / "saved"))
    return tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def mean_over_rows(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return the mean loss over the rows of all micro-batches: BERT's own is that of a micro-batch."""
    total = torch.nn.functional.cross_entropy(outputs["logits"].float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def in_half_precision(trainer: SparseTrainer) -> None:
    """Do on a CPU what fp16=True does on a GPU: forward passes in float16, losses scaled by a scaler."""
    trainer.accelerator.state._mixed_precision = "fp16"
    trainer.accelerator.native_amp = True
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# What a setting may change in a loss of .7; Trainer's own, with an empty recipe, changes by as much.
ROUNDED = {"bf16": 2e-4, "fp16": 2e-5}
EXACT = 5e-6
# Ranges move with every micro-batch.
OBSERVED = 1e-4
# Compilation takes seconds.
COMPILED_PAIRS = ("masks", "all")


def alone_and_in_pairs() -> Iterator[tuple[str, tuple[str, ...]]]:
    pairs = [pair for pair in combinations(SETTINGS, 2) if pair != ("bf16", "fp16")]
    for recipe in RECIPES:
        yield from ((recipe, (setting,)) for setting in SETTINGS)
    for recipe in ("masks", "teacher", "rounding", "all"):
        for pair in pairs:
            if "compiled" not in pair or recipe in COMPILED_PAIRS:
                yield recipe, pair


@pytest.mark.parametrize("recipe, settings", list(alone_and_in_pairs()), ids=str)
def test_a_setting_changes_what_it_changes_in_the_host(recipe: str, settings: tuple[str, ...]) -> None:
    clipped = tuple(setting for setting in settings if setting == "clipped")
    expected = losses(recipe, *clipped)
    allowed = sum(ROUNDED.get(setting, EXACT) for setting in settings)
    allowed += OBSERVED * ("accumulated" in settings and "quantization" in RECIPES[recipe])
    assert losses(recipe, *settings) == pytest.approx(expected, abs=allowed)


@pytest.mark.parametrize("recipe", RECIPES)
def test_clipping_clips(recipe: str) -> None:
    assert losses(recipe) != pytest.approx(losses(recipe, "clipped"), abs=1e-5)


def test_ranges_are_the_same_when_compiled() -> None:
    """What observes and rounds is written twice: for numbers of Python, and for a compiler."""
    values = torch.linspace(-3, 2, 1001, requires_grad=True)
    low, high = torch.tensor(-1.5), torch.tensor(1.0)
    plain = simulate(values, low, high)
    (slope,) = torch.autograd.grad(plain.sum(), values)
    traced = torch.compile(simulate, backend="eager", fullgraph=True)(values, low, high)
    (traced_slope,) = torch.autograd.grad(traced.sum(), values)
    assert torch.equal(traced, plain) and torch.equal(traced_slope, slope)

    ends = [torch.tensor([torch.inf, -torch.inf]) for _ in range(2)]
    follow = torch.compile(observe, backend="eager", fullgraph=True)
    for scale in (1.0, 0.5, 3.0):
        observe("moving_average", values * scale, ends[0][0], ends[0][1])
        follow("moving_average", values * scale, ends[1][0], ends[1][1])
        torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=0)


def test_new_ranges_compile_nothing_anew() -> None:
    """A range that is a number in the graph would make a graph for each step, up to the compiler's limit."""
    compilations = CompileCounter()
    rounded = torch.compile(simulate, backend=compilations)
    for step in range(1, 20):
        rounded(torch.ones(8), torch.tensor(-1.0 / step), torch.tensor(1.0 / step))
    assert compilations.frame_count == 1
