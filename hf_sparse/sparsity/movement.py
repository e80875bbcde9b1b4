"""Scores that are learned beside the weights (Sanh et al. 2020, arXiv:2005.07683)."""

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.n_of_m import NOfM
from hf_sparse.targets import Target, Targets

logger = logging.getLogger(__name__)


class MovementScores:
    """One score for every block of every target, (out / rows, in / columns), float32, zero at first.

    With W' = W * mask(S) computing and W kept whole, the straight-through gradient is dL/dS = (dL/dW') * W,
    summed over a block: weights that move away from zero gain, removed ones too.
    """

    def __init__(self, targets: Targets, blocks: Mapping[str, Block]) -> None:
        self.targets, self.blocks = targets, blocks
        self._scores = {target.name: nn.Parameter(_zeros(target, blocks[target.name])) for target in targets}
        self._checked = False

    def __getitem__(self, name: str) -> Tensor:
        """Return the scores of one target."""
        return self._scores[name].detach()

    def parameters(self) -> list[nn.Parameter]:
        """Return the scores, in the order of the targets."""
        return list(self._scores.values())

    def set_gradients(self, whole: Callable[[Target], Tensor]) -> None:
        """Take the gradients of the scores from those of the weights, which must not be masked yet.

        `whole` gives a weight as it would be without its mask.
        """
        for target in self.targets:
            gradient = target.gradient
            if gradient is not None:
                moved = gradient.detach().float() * whole(target).float()
                self._scores[target.name].grad = self._pooled(target.name, moved)

    def forget_gradients(self) -> None:
        """Leave the scores as they are from here on: an optimizer passes over what has no gradient."""
        for score in self._scores.values():
            score.grad = None

    def check_moved(self) -> None:
        """Name, once, the targets whose scores are as they were in the beginning."""
        unmoved = [] if self._checked else [name for name, score in self._scores.items() if not score.any()]
        self._checked = True
        if unmoved:
            logger.warning(
                "The scores of %d of %d weights are all zero as the first are removed, such as those of %s: "
                "no batch has reached them, or the learning rate has not risen yet, so their place decides; "
                "leave them out by sparsity.exclude, or let the schedule begin later.",
                len(unmoved),
                len(self._scores),
                unmoved[0],
            )

    def ranked(self) -> dict[str, Tensor]:
        """Return what is ranked: the score of every block, infinite where a pattern keeps it in any case."""
        return {
            name: block.pool(self[name]) if isinstance(block, NOfM) else self[name]
            for name, block in self.blocks.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the scores, on the CPU."""
        return {name: score.detach().cpu().clone() for name, score in self._scores.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; raise `ValueError` if it is of other blocks."""
        for name, score in self._scores.items():
            if name not in state or state[name].shape != score.shape:
                raise ValueError(
                    f"the checkpoint's movement scores of {name} are not those of this recipe and model; "
                    "resume from another one"
                )
            score.data.copy_(state[name])

    def _pooled(self, name: str, values: Tensor) -> Tensor:
        block = self.blocks[name]
        return values if isinstance(block, NOfM) else block.pool(values).contiguous()


def _zeros(target: Target, block: Block) -> Tensor:
    rows, columns = target.weight.shape
    return torch.zeros(rows // block.rows, columns // block.columns, device=target.weight.device)
