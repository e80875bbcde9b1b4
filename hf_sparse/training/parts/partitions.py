"""Reach weights, gradients and optimizer states that DeepSpeed ZeRO divides among processes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_sparse.sparsity.masks import Masks
from hf_sparse.targets import Target
from hf_sparse.training.host import Host

# The stage that divides the weights themselves.
WEIGHTS = 3
GATHERED_TO_SAVE = "zero_optimization.stage3_gather_16bit_weights_on_model_save"


def stage(trainer: Host) -> int | None:
    """Return the stage of ZeRO that a Trainer runs under, None without DeepSpeed."""
    return trainer.accelerator.state.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else None


def setting(trainer: Host, name: str) -> Any:
    """Return a setting of DeepSpeed's configuration by its dotted name, None without it."""
    return trainer.accelerator.state.deepspeed_plugin.hf_ds_config.get_value(name)


def saves_in_parts(trainer: Host) -> bool:
    """Return whether every process saves its own part of a model, in place of whole weights by one."""
    return stage(trainer) == WEIGHTS and not setting(trainer, GATHERED_TO_SAVE)


def is_divided(parameter: nn.Parameter) -> bool:
    """Return whether ZeRO-3 divides a parameter among processes."""
    return hasattr(parameter, "ds_id")


@contextmanager
def whole(parameters: Iterable[nn.Parameter], write: bool = False) -> Iterator[None]:
    """Gather divided parameters on every process; with `write`, what is written to them is kept.

    Every process has to enter, and to write the same values. Other parameters are left as they are. Blocks
    for the same parameters must not be nested.
    """
    divided = [parameter for parameter in parameters if is_divided(parameter)]
    if not divided:
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(divided, modifier_rank=0 if write else None):
        yield


class Partitions:
    """What an engine of DeepSpeed holds of the weights that masks belong to, reached by its documented API.

    The optimizer works on copies of the weights in float32, its states are beside them; every process holds
    a part of both, and after each step the model's weights are copied from them.
    """

    def __init__(self, masks: Masks, optimizer: torch.optim.Optimizer) -> None:
        self.masks = masks
        self._optimizer = inner_optimizer(optimizer)
        self._targets: dict[nn.Parameter, list[Target]] = {}
        for target in masks.targets:
            self._targets.setdefault(target.parameter, []).append(target)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the masks belong to."""
        return list(self._targets)

    def mask_gradients(self) -> list[RemovableHandle]:
        """Clear the gradients of removed weights in every backward pass, before they are reduced."""
        return [
            parameter.register_hook(lambda gradient, parameter=parameter: self._cleared(parameter, gradient))
            for parameter in self._targets
            if parameter.requires_grad
        ]

    def clear(self, states: bool) -> None:
        """Set removed weights to zero in the optimizer's copies, and with `states` in its states."""
        from deepspeed import utils

        for parameter in self._targets:
            if not parameter.requires_grad:
                continue
            # The functions for whole tensors cannot write to the last part if the parts are padded.
            if is_divided(parameter):
                keep = self._own_part(parameter)
                value = utils.safe_get_local_fp32_param(parameter)
                utils.safe_set_local_fp32_param(parameter, value.masked_fill(~keep.to(value.device), 0))
                for key in self._state_keys() if states else ():
                    value = utils.safe_get_local_optimizer_state(parameter, key)
                    value = value.masked_fill(~keep.to(value.device), 0)
                    utils.safe_set_local_optimizer_state(parameter, value, key)
            else:
                value = utils.safe_get_full_fp32_param(parameter)
                utils.safe_set_full_fp32_param(parameter, self._cleared(parameter, value))
                for key in self._state_keys() if states else ():
                    value = utils.safe_get_full_optimizer_state(parameter, key)
                    utils.safe_set_full_optimizer_state(parameter, self._cleared(parameter, value), key)

    def _cleared(self, parameter: nn.Parameter, values: Tensor) -> Tensor:
        """Return a copy of a tensor shaped like a whole parameter, zero where weights are removed."""
        values = values.clone()
        for target in self._targets[parameter]:
            target.view(values).masked_fill_(~self.masks[target.name], 0)
        return values

    def _own_part(self, parameter: nn.Parameter) -> Tensor:
        """Return the part of a mask that belongs to this process' part of a divided parameter, flat."""
        from deepspeed import comm

        whole_parameter: Any = parameter
        keep = torch.ones(whole_parameter.ds_shape, dtype=torch.bool)
        for target in self._targets[parameter]:
            target.view(keep).copy_(self.masks[target.name])
        size, group = whole_parameter.ds_tensor.numel(), whole_parameter.ds_process_group
        padded = torch.ones(size * comm.get_world_size(group), dtype=torch.bool)
        padded[: keep.numel()] = keep.flatten()
        start = size * comm.get_rank(group)
        return padded[start : start + size]

    def _state_keys(self) -> list[str]:
        """Return the names of the optimizer's states that have a number for each weight."""
        states: Mapping[Tensor, Mapping[str, Any]] = self._optimizer.state
        return sorted(
            {
                key
                for part, state in states.items()
                for key, value in state.items()
                if torch.is_tensor(value) and value.shape == part.shape and value.dim()
            }
        )


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that DeepSpeed and accelerate have wrapped."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
