"""The interface of a distillation term: a distance between inner states of student and teacher."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_sparse.distillation.losses import LossTerm
from hf_sparse.distillation.unwrap import unwrapped

Role = Literal["student", "teacher"]
# The outputs of a model, with the inputs that gave them.
Seen = tuple[Mapping[str, Any], Mapping[str, Any]]


class FeatureSettings(Protocol):
    """Settings of every term: which student layers learn from which teacher layers (see `layer_map`)."""

    layers: str | Mapping[int, int]


class FeatureTerm(nn.Module, ABC):
    """A distance between inner states, constructed from (settings, student, teacher).

    The constructor raises `ValueError` if the models cannot be compared. A term keeps no reference to either
    model. Its own parameters, such as projections, are trained together with the student's.
    """

    forward_options: ClassVar[dict[str, bool]] = {}
    """Keywords that both forward passes need in order to return the compared states."""

    choices: tuple[str, ...] = ()
    """Sentences that describe automatic choices, such as layer pairs (`chosen_pairs`); each is logged."""

    def operations(self, tokens: int) -> float:
        """Return the operations for each token that the comparison adds to a step, for `plan`.

        Forward passes and the term's own parameters are counted elsewhere; 0, the default, means that the
        rest is negligible.

        Args:
            tokens: The number of tokens in a row.
        """
        return 0.0

    def watch(self, model: nn.Module, role: Role) -> AbstractContextManager[Mapping[str, Any]]:
        """Record states that a forward pass inside the block does not return; it fills the mapping."""
        return nullcontext({})

    @property
    def unprepared(self) -> bool:
        """Whether `prepare` must be called with a whole batch before the term can be computed."""
        return False

    def prepare(self, seen: Iterable[Seen], accelerator: Accelerator) -> None:
        """Measure what the term needs of the teacher's outputs, over all micro-batches of the first batch."""

    def restart(self) -> None:
        """Discard what `prepare` measured, at the start of a run."""

    @property
    def details(self) -> dict[str, list[LossTerm]]:
        """Parts of the last comparison to log separately, by the suffix of their names."""
        return {}

    @abstractmethod
    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        """Return the loss terms of one micro-batch.

        Args:
            student: The student's outputs by name, with the states that `watch` recorded.
            teacher: The same of the teacher.
            inputs: The micro-batch.
        """


def configuration(model: nn.Module, role: Role) -> PreTrainedConfig:
    """Return the configuration of a model's layers; raise `ValueError` for models outside transformers."""
    config = getattr(unwrapped(model), "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise ValueError(
            f"the {role} {type(model).__name__} lacks a transformers configuration, so its layers are "
            "unknown; give weights to task and logits alone"
        )
    return config if config.is_encoder_decoder else config.get_text_config()


def learnable(state: Tensor, what: str) -> Tensor:
    """Return an inner state of the student; raise `ValueError` if no gradient flows through it."""
    if torch.is_grad_enabled() and not state.requires_grad:
        raise ValueError(
            f"no gradient reaches the student through {what}: under reentrant checkpointing of activations, "
            "set use_reentrant to False; if the layers are frozen, map only layers that train"
        )
    return state


def require_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raise `ValueError` unless both inner states have the same shape."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"{what} of the student have shape {tuple(student.shape)}, of the teacher "
            f"{tuple(teacher.shape)}; take "
            "a teacher that splits its inputs into the same positions, or leave this term out"
        )
