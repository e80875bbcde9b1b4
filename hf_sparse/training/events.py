"""Events of Trainer for which it has a callback and no method to override."""

from typing import TYPE_CHECKING, Any, Protocol

from torch.optim import Optimizer
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from hf_sparse.training.announcing import announce

if TYPE_CHECKING:
    from hf_sparse.training.distiller import Distiller
    from hf_sparse.training.quantizer import Quantizer
    from hf_sparse.training.sparsifier import Sparsifier


class Listener(Protocol):
    """A Trainer that is told of its own events, and what it is to do."""

    sparsifier: "Sparsifier | None"
    quantizer: "Quantizer | None"
    distiller: "Distiller | None"

    def begin_sparsity(self, optimizer: Optimizer) -> None: ...
    def begin_pass(self) -> None: ...
    def before_optimizer_step(self) -> None: ...
    def after_optimizer_step(self, step: int, optimizer: Optimizer) -> None: ...
    def end_step(self, step: int, optimizer: Optimizer) -> None: ...
    def end_sparsity(self) -> None: ...
    def begin_push(self) -> None: ...


class ListenedEvents(CallbackHandler):
    """The callbacks of a Trainer, after which it hears of each event itself.

    A callback would do the same, but would stand in the list of callbacks, which people compare, save and
    clear.
    """

    def __init__(self, handler: CallbackHandler, listener: Listener) -> None:
        vars(self).update(vars(handler))
        self._listener = listener

    def call_event(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        """Call every callback, then the Trainer."""
        control = super().call_event(event, args, state, control, **kwargs)
        listener = self._listener
        match event:
            case "on_train_begin":
                listener.begin_sparsity(self.optimizer)
                announce(listener.sparsifier, listener.quantizer, listener.distiller)
            case "on_epoch_begin":
                listener.begin_pass()
            case "on_pre_optimizer_step":
                listener.before_optimizer_step()
            case "on_optimizer_step":
                listener.after_optimizer_step(state.global_step, self.optimizer)
            case "on_step_end":
                listener.end_step(state.global_step, self.optimizer)
            case "on_train_end":
                listener.end_sparsity()
            case "on_push_begin":
                listener.begin_push()
        return control


class HeardEvents:
    """Lets a Trainer hear its events, whichever handler of callbacks it is given and when."""

    @property
    def callback_handler(self) -> CallbackHandler:
        """What calls the callbacks: the handler that was set last, and after them the Trainer."""
        return self._events

    @callback_handler.setter
    def callback_handler(self, handler: CallbackHandler) -> None:
        self._events = ListenedEvents(handler, self)
