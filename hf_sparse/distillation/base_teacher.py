"""A model as its own teacher, with its adapters off: the base they were put on, and no copy of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_sparse.modules import adapter_owner


class BaseAsTeacher(nn.Module):
    """Computes what a model with adapters would without them; it has no weights of its own.

    Raises `ValueError` for a model without adapters that can be turned off, and for one that trains weights
    of the base itself, which would teach what it has just learned.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        # In a tuple: as a module of this one it would be frozen as teachers are.
        self._student = (student,)
        self._check()

    @property
    def watched(self) -> nn.Module:
        """The model whose layers compute what this one returns."""
        return self._student[0]

    @property
    def config(self) -> Any:
        """The configuration of the model, None if it has none."""
        return getattr(self.watched, "config", None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model in evaluation mode with its adapters off, and leave it as it was."""
        with adapters_off(self.watched), _evaluating(self.watched), torch.no_grad():
            return self.watched(*args, **kwargs)

    def _check(self) -> None:
        if not _has_adapters(self.watched):
            raise ValueError(
                f"teacher: base is the model with its adapters off, and {type(self.watched).__name__} has "
                "none; put one on, as by peft.get_peft_model, or override distillation.teacher=given or self"
            )
        with adapters_off(self.watched):
            moving = [name for name, part in self.watched.named_parameters() if part.requires_grad]
        if moving:
            raise ValueError(
                f"teacher: base is the model with its adapters off, and {len(moving)} weights of the base "
                f"train too, such as {moving[0]}; freeze them, name their modules in modules_to_save (and "
                "set bias='none'), or pass another teacher with distillation.teacher=given"
            )


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Turn the adapters of a model off, those of peft's model classes or of transformers' `add_adapter`."""
    # Turning them on again lets all active ones train, also those that somebody froze.
    training = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                yield
        else:
            model.disable_adapters()
            try:
                yield
            finally:
                model.enable_adapters()
    finally:
        for parameter, trains in training:
            parameter.requires_grad_(trains)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _has_adapters(model: nn.Module) -> bool:
    """Return whether a model has adapters in its layers; a prompt, which lengthens the outputs, is none."""
    if adapter_owner(model) == "transformers":
        return True
    configs = getattr(model, "peft_config", None) if hasattr(model, "disable_adapter") else None
    return bool(configs) and not any(config.is_prompt_learning for config in configs.values())
