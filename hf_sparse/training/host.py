"""The Trainer that mixins extend and parts work in: the types of its attributes, and its events."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Trainer

    class Host(Trainer):
        """A Trainer after its constructor; transformers also allows None for these attributes."""

        model: nn.Module
        optimizer: torch.optim.Optimizer
        # transformers first assigns None to these, so a checker infers None for good.
        _signature_columns: list[str]  # type: ignore[assignment]
        push_in_progress: Any
else:
    # Mixins do not inherit from Trainer: the user's Trainer comes after them in the bases.
    Host = object


class ListenedEvents(CallbackHandler):
    """The callbacks of a Trainer; after them it calls `hear` with the name of the event.

    A callback would do the same, but it would stand in the list of callbacks, which people compare, save and
    clear.
    """

    def __init__(self, handler: CallbackHandler, hear: Callable[[str], None]) -> None:
        vars(self).update(vars(handler))
        self._hear = hear

    def call_event(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Call every callback, then `hear`."""
        control = super().call_event(event, args, state, control, **kwargs)
        self._hear(event)
        return control


class HeardEvents(Host):
    """Calls `_hear` of a Trainer after each of its events, whichever callback handler is set, and when."""

    @property
    def callback_handler(self) -> CallbackHandler:
        """The handler that was set last, wrapped so that the Trainer hears each event after the callbacks."""
        return self._events

    @callback_handler.setter
    def callback_handler(self, handler: CallbackHandler) -> None:
        self._events = ListenedEvents(handler, self._hear)

    def _hear(self, event: str) -> None:
        """Do what follows the callbacks of an event."""
