"""Revival: stored values of removed weights, which can return (Zafrir et al. 2021, the authors' code)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.streamed.mask_storage import as_integers
from hf_sparse.targets import Target


class RememberedWeights:
    """The values that removed weights would have without their masks.

    The optimizer goes on moving them, by old momentum and by weight decay: call `restore` before its step and
    `withdraw` after it. In between the weights are dense; at any other time removed ones are zero. The values
    take as much memory as the target weights.
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self._values = {target.name: torch.zeros_like(target.weight.detach()) for target in masks.targets}
        self._mode: str | None = None

    def restore(self) -> None:
        """Put the remembered values into the weights, in place of the zeros."""
        self.masks.fill_removed(self._values)

    def withdraw(self) -> None:
        """Remember the values of removed weights and set them to zero."""
        self.masks.take_removed(self._values)

    def switch(self, optimizer: torch.optim.Optimizer, mode: str) -> None:
        """Switch an optimizer to the mode `train` or `eval`, if it has modes, and the stored values with it.

        In evaluation such optimizers put an average into the weights; of removed weights it is stored.
        """
        if mode == self._mode or not has_modes(optimizer):
            return
        change = getattr(getattr(optimizer, "optimizer", optimizer), mode)
        self.restore()
        change()
        self.withdraw()
        self._mode = mode

    def whole(self, target: Target) -> Tensor:
        """Return a weight as it would be without its mask, (out, in); under FSDP2 what of it is here."""
        return target.weight.detach() + self._values[target.name]

    def pack(self) -> dict[str, Tensor]:
        """Return the values of removed weights by name, flat, in row-major order.

        If processes share the weights, all of them must call this, as well as `unpack`. Only the first of
        them returns values, since they take as much memory as the model.
        """
        found = {}
        for target in self.masks.targets:
            values, keep = self._whole(target), self.masks.whole(target.name)
            if target.part is None or target.part.group.rank == 0:
                found[target.name] = _chosen(values, ~keep).cpu()
        return found

    def unpack(self, packed: Mapping[str, Tensor]) -> None:
        """Take over what `pack` returned, for masks like those it was made with."""
        for target in self.masks.targets:
            name, part, values = target.name, target.part, self._values[target.name]
            if name not in packed or packed[name].numel() != self.masks.removed(name):
                raise ValueError(
                    f"the remembered values of {name} are not those of its removed weights; resume from "
                    "another checkpoint"
                )
            removed, found = ~self.masks.whole(name), packed[name].flatten().to(values)
            if part is None:
                _put(values.zero_(), removed, found)
                continue
            whole = values.new_zeros(target.shape)
            _put(whole, removed, found)
            values.copy_(part.cut(whole))

    def _whole(self, target: Target) -> Tensor:
        values, part = self._values[target.name], target.part
        return values if part is None else part.gather(values)


def _chosen(values: Tensor, where: Tensor) -> Tensor:
    if values.device.type != "cpu":
        return values[where]
    # torch makes a list of places, which takes several times the memory of the values.
    return torch.from_numpy(as_integers(values).numpy()[where.numpy()]).view(values.dtype)


def _put(values: Tensor, where: Tensor, chosen: Tensor) -> None:
    if values.device.type == "cpu":
        as_integers(values).numpy()[where.numpy()] = as_integers(chosen).numpy()
    else:
        values[where] = chosen


def has_modes(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer puts other weights into the model for evaluation than for training."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return all(callable(getattr(inner, mode, None)) for mode in ("train", "eval"))
