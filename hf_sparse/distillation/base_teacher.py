"""The base model below adapters as a teacher: the student itself with its adapters off, without a copy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_sparse.modules import adapter_owner


class BaseAsTeacher(nn.Module):
    """A teacher that runs the student with its adapters off; it holds no weights.

    Raises `ValueError` for a student without adapters that can be turned off, and for one that trains weights
    of the base, because the teacher would change with them.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        # In a tuple, since a submodule would be frozen together with the teacher.
        self._student = (student,)
        self._check()

    @property
    def watched(self) -> nn.Module:
        """The student, whose layers compute the outputs of this teacher."""
        return self._student[0]

    @property
    def config(self) -> Any:
        """The configuration of the student, None without one."""
        return getattr(self.watched, "config", None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the student in evaluation mode with its adapters off, then restore both."""
        with adapters_off(self.watched), _evaluating(self.watched), torch.no_grad():
            return self.watched(*args, **kwargs)

    def _check(self) -> None:
        if not _has_adapters(self.watched):
            raise ValueError(
                f"teacher: base is the model with its adapters off, and {type(self.watched).__name__} lacks "
                "adapters; add one with peft.get_peft_model, or override distillation.teacher=given or self"
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
    """Turn adapters off inside the block: peft's models, or transformers' models after `add_adapter`."""
    # Turning adapters on again unfreezes all active ones, also those that the user froze.
    training = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        adapted: Any = model
        if hasattr(model, "disable_adapter"):
            with adapted.disable_adapter():
                yield
        else:
            adapted.disable_adapters()
            try:
                yield
            finally:
                adapted.enable_adapters()
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
    """Return whether a model has adapters in its layers; prompts do not count."""
    if adapter_owner(model) == "transformers":
        return True
    configs = getattr(model, "peft_config", None) if hasattr(model, "disable_adapter") else None
    return bool(configs) and not any(config.is_prompt_learning for config in dict(configs or {}).values())
