"""Values of removed weights, kept aside so that they can return (Zafrir et al. 2021, the authors' code)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_sparse.sparsity.masks import Masks


class RememberedWeights:
    """What removed weights would be without their masks.

    The optimizer goes on moving them, by old momentum and by weight decay: `restore` before its step,
    `withdraw` after it. In between the weights are dense; at any other time they hold zeros. Takes as much
    memory as the target weights.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self._values: dict[str, Tensor] = {}

    def restore(self) -> None:
        """Put the remembered values into the weights, in place of the zeros."""
        with torch.no_grad():
            for target in self.masks.targets:
                if target.name in self._values:
                    weight = target.weight.detach()
                    torch.where(self.masks[target.name], weight, self._values.pop(target.name), out=weight)

    def withdraw(self) -> None:
        """Remember the values of removed weights and set them to zero."""
        for target in self.masks.targets:
            if self.masks.removed(target.name):
                self._values[target.name] = target.weight.detach().clone()
        self.masks.apply_to_weights()

    def pack(self) -> dict[str, Tensor]:
        """Return the values of the removed weights alone, flat, in row-major order."""
        return {name: values[~self.masks[name]] for name, values in self._values.items()}

    def unpack(self, packed: Mapping[str, Tensor]) -> None:
        """Take over what `pack` returned, for masks like those it was made with."""
        for target in self.masks.targets:
            removed = ~self.masks[target.name]
            values = packed.get(target.name)
            if self.masks.removed(target.name) != (0 if values is None else values.numel()):
                raise ValueError(
                    f"the remembered values of {target.name} are not those of its removed weights; resume "
                    "from another checkpoint"
                )
            if values is not None:
                dense = torch.zeros_like(target.weight.detach())
                dense[removed] = values.to(dense)
                self._values[target.name] = dense
