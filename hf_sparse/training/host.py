"""The type of the Trainer that mixins extend and parts are called by; delivery of its events."""

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
    """A callback handler that, after the callbacks, calls `hear` with the name of the event.

    `hear` is not a callback of its own, since users compare, save and clear the list of callbacks.

    Args:
        handler: The handler whose callbacks and state are taken over.
        hear: Called with the name of each event.
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
    """A Trainer whose method `_hear` is called after each event, also if its callback handler is replaced."""

    @property
    def callback_handler(self) -> CallbackHandler:
        """The callback handler that was set last, wrapped in `ListenedEvents`."""
        return self._events

    @callback_handler.setter
    def callback_handler(self, handler: CallbackHandler) -> None:
        self._events = ListenedEvents(handler, self._hear)

    def _hear(self, event: str) -> None:
        """Act on an event, after its callbacks; subclasses override this."""
