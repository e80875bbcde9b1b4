"""Making a model without drawing its weights, which are to come from a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

_DRAW = {"normal_", "uniform_"}


class Undrawn(TorchFunctionMode):
    """Leaves parameters as the memory they lie in was found, whatever modules draw for them.

    In this thread only: `no_init_weights` of transformers puts empty functions in place of those of torch for
    the whole process, and where two threads do so at once, for good.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function.__name__ in _DRAW or getattr(function, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
