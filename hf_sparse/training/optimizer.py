"""Parameter groups that join or leave an optimizer, and whether its last step was taken."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn


def join(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], **settings: float) -> None:
    """Add one group with those parameters that are not in the optimizer yet, without weight decay."""
    present = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    new = [parameter for parameter in parameters if id(parameter) not in present]
    if new:
        optimizer.add_param_group({"params": new, "weight_decay": 0.0} | settings)


def leave(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Remove the groups that hold any of the parameters, with the state of these."""
    gone = {id(parameter): parameter for parameter in parameters}
    optimizer.param_groups[:] = [
        group for group in optimizer.param_groups if not any(id(entry) in gone for entry in group["params"])
    ]
    for parameter in gone.values():
        optimizer.state.pop(parameter, None)


def loss_scale(accelerator: Accelerator | None) -> float:
    """Return the factor that losses are multiplied by before their gradients are computed."""
    scaler = None if accelerator is None else accelerator.scaler
    return 1.0 if scaler is None else scaler.get_scale()


def was_skipped(accelerator: Accelerator | None, scale: float) -> bool:
    """Return whether the optimizer's last step was skipped after an overflow.

    `scale` is the loss scale before the step. Fused optimizers are called after an overflow, too, and leave
    the weights as they are; accelerate counts that as a step, but the scaler lowers its scale.
    """
    if accelerator is None:
        return False
    return accelerator.optimizer_step_was_skipped or loss_scale(accelerator) < scale
