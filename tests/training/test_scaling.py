"""An optimizer's step that a loss scaler skips is recognized."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from transformers import TrainerCallback

from hf_sparse.training.optimizer import loss_scale, was_skipped
from tests.support.runs import lasso


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_is_known_to_be_skipped_whoever_skipped_it(fused: bool) -> None:
    Accelerator(cpu=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AcceleratedOptimizer(torch.optim.AdamW([weight], fused=fused), scaler=scaler)

    def step(gradient: float) -> tuple[bool, bool]:
        scaler.scale(weight.sum() * 0.0).backward()
        weight.grad.fill_(gradient)
        scale, before = scaler.get_scale(), weight.detach().clone()
        optimizer.step()
        seen = SimpleNamespace(scaler=scaler, optimizer_step_was_skipped=optimizer.step_was_skipped)
        return was_skipped(seen, scale), torch.equal(weight, before)

    assert step(float("inf")) == (True, True)
    assert step(1.0) == (False, False)


def test_without_a_scaler_the_scale_is_one() -> None:
    assert loss_scale(SimpleNamespace(scaler=None)) == 1.0
    assert not was_skipped(SimpleNamespace(scaler=None, optimizer_step_was_skipped=False), 1.0)


class Overflow(TrainerCallback):
    """Lets the gradients of the first two steps overflow; keeps the squared norm of the weights."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        for parameter in model.parameters() if state.global_step < 2 else ():
            if parameter.grad is not None:
                parameter.grad.fill_(float("inf"))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.seen.append(weight_of(model))


def weight_of(model: torch.nn.Module) -> float:
    return sum(parameter.square().sum().item() for parameter in model.parameters())


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_no_group_is_shortened_by_a_step_that_overflowed(optim: str, tmp_path: Path) -> None:
    overflow = Overflow()
    trainer = lasso(tmp_path, optim=optim, max_steps=8, callbacks=[overflow])
    before = weight_of(trainer.model)
    # As fp16=True makes one on a GPU.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() == 1.0
    first, second, third = overflow.seen[:3]
    assert before == first == second != third
