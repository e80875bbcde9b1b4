"""The Trainer that mixins extend and parts work in, with the types its attributes have in use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Trainer

    class Host(Trainer):
        """A Trainer after its constructor; transformers also allows None for these attributes."""

        model: nn.Module
        optimizer: torch.optim.Optimizer
        # transformers' first assignment is None, so a checker infers None for good.
        _signature_columns: list[str]  # type: ignore[assignment]
else:
    # A mixin has no base of its own: the user's Trainer comes after it.
    Host = object
