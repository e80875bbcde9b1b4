"""Models whose weights are not drawn at random, since their values come from a file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

# Methods of tensors that draw random values, each with the name and the default of a value that it may draw.
_DRAW = {"normal_": ("mean", 0.0), "uniform_": ("from", 0.0)}


class Undrawn(TorchFunctionMode):
    """Leaves parameters uninitialized, whatever modules draw for them, since their values come from a file.

    In this thread only: `no_init_weights` of transformers puts empty functions in place of those of torch for
    the whole process, and when two threads do so at once, for good.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or (func.__name__ in _DRAW and not args):
            return args[0] if args else named["tensor"]
        if func.__name__ in _DRAW:
            # `trunc_normal_` draws until all values lie between its bounds, which garbage may never do.
            name, value = _DRAW[func.__name__]
            return args[0].fill_(args[1] if len(args) > 1 else named.get(name, value))
        return func(*args, **named)
