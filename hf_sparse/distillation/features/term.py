"""What a distance between inner states of student and teacher has to offer."""

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
    """What every term is told: which student layers learn from which teacher layers (see `layer_map`)."""

    layers: str | Mapping[int, int]


class FeatureTerm(nn.Module, ABC):
    """One distance, made from (settings, student, teacher); it holds neither model.

    Making it raises `ValueError` where the two cannot be compared. Its parameters, if any, are learned with
    the student's.
    """

    forward_options: ClassVar[dict[str, bool]] = {}
    """Keywords for the forward pass of both models, without which they do not return what is compared."""

    choices: tuple[str, ...] = ()
    """What a rule has chosen that nobody has asked for, as sentences: see `told_pairs`."""

    def watch(self, model: nn.Module, role: Role) -> AbstractContextManager[Mapping[str, Any]]:
        """Collect what a forward pass inside the block does not return; the mapping is filled as it runs."""
        return nullcontext({})

    @property
    def unprepared(self) -> bool:
        """Whether the term must see the teacher's states of a whole batch before it can be computed."""
        return False

    def prepare(self, seen: Iterable[Seen], accelerator: Accelerator) -> None:
        """See what the teacher makes of all micro-batches of a first batch."""

    def restart(self) -> None:
        """Forget what was prepared, for a run that begins anew."""

    @property
    def details(self) -> dict[str, list[LossTerm]]:
        """Parts of the last comparison that are logged by themselves, each by the end of its name."""
        return {}

    @abstractmethod
    def forward(
        self, student: Mapping[str, Any], teacher: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> list[LossTerm]:
        """Compare the outputs of both models, with what was watched, for one micro-batch."""


def configuration(model: nn.Module, role: Role) -> PreTrainedConfig:
    """Return the configuration of a model's layers; raise `ValueError` if it has none."""
    config = getattr(unwrapped(model), "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise ValueError(
            f"the {role} {type(model).__name__} has no transformers configuration, which says how many "
            "layers it has; leave hidden, attention and relations out of distillation"
        )
    return config if config.is_encoder_decoder else config.get_text_config()


def learnable(state: Tensor, what: str) -> Tensor:
    """Return an inner state of the student; raise `ValueError` if nothing can be learned through it."""
    if torch.is_grad_enabled() and not state.requires_grad:
        raise ValueError(
            f"no gradient reaches the student through {what}: under reentrant checkpointing of activations, "
            "set use_reentrant to False; if the layers are frozen, map only layers that train"
        )
    return state


def require_same_shape(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Raise `ValueError` unless both inner states have one shape."""
    if ours.shape != theirs.shape:
        raise ValueError(
            f"{what} of the student have shape {tuple(ours.shape)}, of the teacher {tuple(theirs.shape)}; "
            "take a teacher that cuts its inputs into the same positions, or leave this term out"
        )
