"""Movement pruning: scores are learned beside the weights (Sanh et al. 2020, arXiv:2005.07683)."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hf_sparse.fields import Factor, Part, Point
from hf_sparse.sparsity.allocation import Budget
from hf_sparse.sparsity.methods.method import FORMER, Method, MethodRun, PruningRun, settings_as
from hf_sparse.sparsity.methods.penalty import PenalizedRun, Penalty
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.targets import Target, Targets

logger = logging.getLogger(__name__)

# The section of the sidecar that holds learned scores.
_PART = "movement_scores"


class ScoresRecipe(Part):
    """How scores are learned: at a rate of their own, which follows the schedule of the run."""

    learning_rate: Factor = 1e-2


class MovementRecipe(ScoresRecipe):
    """How scores are learned, and in soft movement drawn below a threshold; see `ScorePenalty`."""

    strength: Factor = 1.0
    adapt: bool = True
    threshold: Factor = 0.1
    every: Point = "1%"


class MovementScores:
    """One score for every block of every target, (out / rows, in / columns), float32, zero at first.

    The model computes with W' = W * mask(S) while W is kept whole, so the straight-through gradient is
    dL/dS = (dL/dW') * W, summed over a block: weights that move away from zero gain, removed ones too.

    Args:
        targets: The weights that are pruned.
        blocks: The blocks of each weight, by its name.
        settings: A `ScoresRecipe`, by default with its defaults.

    Raises:
        TypeError: `settings` are of another class.
    """

    def __init__(self, targets: Targets, blocks: Mapping[str, Block], settings: Part | None = None) -> None:
        self.targets, self.blocks = targets, blocks
        self.learning_rate = settings_as(ScoresRecipe, settings).learning_rate
        self._scores = {target.name: nn.Parameter(_zeros(target, blocks[target.name])) for target in targets}
        self._checked = False

    def __getitem__(self, name: str) -> Tensor:
        """Return the scores of one target."""
        return self._scores[name].detach()

    def parameters(self) -> list[nn.Parameter]:
        """Return the scores, in the order of the targets."""
        return list(self._scores.values())

    def set_gradients(self, whole: Callable[[Target], Tensor]) -> None:
        """Set the gradients of the scores from those of the weights, which must not be masked yet.

        `whole` returns a weight (out, in) as it would be without its mask.
        """
        for target in self.targets:
            gradient = target.gradient
            if gradient is not None:
                entries = self.gradient_of(gradient.detach().float(), whole(target).float())
                self._scores[target.name].grad = self.blocks[target.name].sums(entries).contiguous()

    def gradient_of(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of scores of single weights, (out, in), from the weights and their gradients.

        An optimizer moves scores against it: where it is negative the weight gains importance.
        """
        return gradient * weight

    def forget_gradients(self) -> None:
        """Clear the gradients, so that an optimizer leaves the scores as they are."""
        for score in self._scores.values():
            score.grad = None

    def check_moved(self) -> None:
        """Warn, once, of targets whose scores have not moved."""
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
        """Return the score of every block, infinite where a pattern keeps the block in any case."""
        return {name: block.protect(self[name]) for name, block in self.blocks.items()}

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


class ScorePenalty(Penalty):
    """strength * mean of sigmoid(S) over all blocks (Sanh et al. 2020, arXiv:2005.07683, section 4).

    A block counts as gone once sigmoid(S) is below `threshold`.
    """

    def __init__(self, scores: MovementScores, strength: float, threshold: float) -> None:
        super().__init__(strength)
        self.scores, self.threshold = scores, threshold

    def refresh(self) -> None:
        """Do nothing: this penalty holds nothing constant."""

    def add_gradients(self, scale: float = 1.0) -> float:
        """Add the gradient of the penalty to those of the scores that have one; return the penalty."""
        scores = self.scores.parameters()
        factor, total = self.strength.value / sum(score.numel() for score in scores), 0.0
        for score in scores:
            if score.grad is not None:
                share = torch.sigmoid(score.detach())
                total += float(share.sum())
                score.grad.addcmul_(share, 1 - share, value=factor * scale)
        return factor * total

    def sizes(self) -> Tensor:
        """Return sigmoid(S) of all blocks, flat, as multiples of the threshold."""
        flat = torch.cat([score.detach().flatten() for score in self.scores.parameters()])
        return torch.sigmoid(flat) / self.threshold

    def below(self, risen: float) -> dict[str, int]:
        """Return by weight how many blocks lie below the threshold times `risen`, a share in [0, 1]."""
        limit = risen * self.threshold
        return {
            name: int((torch.sigmoid(score) < limit).sum()) for name, score in self.scores.ranked().items()
        }


class MovementRun(MethodRun):
    """Movement pruning during a run: the highest learned scores stay, and removed weights may return."""

    @property
    def learned(self) -> MovementScores:
        """The scores that are learned."""
        return _scores_of(self.run)

    def gradients(self, step: int, scale: float, whole: Callable[[Target], Tensor] | None) -> float:
        """Take the gradients of the scores from those of the weights, as long as masks may change."""
        if whole is None:
            self.learned.forget_gradients()
        else:
            self.learned.set_gradients(whole)
        return super().gradients(step, scale, whole)

    def update(self, step: int) -> None:
        """Warn of scores that nothing has moved, when the first blocks are about to be removed."""
        super().update(step)
        if self.run.schedule.is_update(step) and self.run.schedule.sparsity(step):
            self.learned.check_moved()

    def scores(self) -> Mapping[str, Tensor]:
        """Return the learned scores of all blocks."""
        return self.learned.ranked()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the scores as section `movement_scores`."""
        return {_PART: self.learned.state()} | super().state()

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Take over the scores of a checkpoint."""
        self.learned.load_state(state.get(_PART, {}))
        super().load_state(state, step)


class SoftMovementRun(MovementRun, PenalizedRun):
    """Soft movement pruning during a run: scores are drawn down, and on the ramp the low ones are removed."""

    penalty: ScorePenalty

    def __init__(self, run: PruningRun) -> None:
        settings = settings_as(MovementRecipe, run.settings)
        penalty = ScorePenalty(_scores_of(run), settings.strength, settings.threshold)
        super().__init__(run, penalty, settings.adapt, settings.every)

    def budgets(self, step: int) -> list[Budget]:
        """Return how many blocks are removed: on the ramp those whose score is below a rising threshold."""
        schedule = self.run.schedule
        if schedule.is_final(step):
            return super().budgets(step)
        risen = schedule.sparsity(step) / schedule.final if schedule.final else 0.0
        lowest = self.penalty.below(risen)
        return [
            replace(budget, removed=min(budget.removed, sum(lowest[name] for name in budget.names)))
            for budget in self.run.final_budgets
        ]


def _scores_of(run: PruningRun) -> MovementScores:
    if not isinstance(run.learned, MovementScores):
        raise TypeError(
            f"a movement run ranks MovementScores, got {run.learned!r}; give the method "
            "learn=MovementScores, or a subclass of them"
        )
    return run.learned


def _zeros(target: Target, block: Block) -> Tensor:
    rows, columns = target.weight.shape
    return torch.zeros(rows // block.rows, columns // block.columns, device=target.weight.device)


movement = Method(settings=MovementRecipe, start=MovementRun, learn=MovementScores)
soft_movement = Method(settings=MovementRecipe, start=SoftMovementRun, learn=MovementScores)
FORMER[True, False], FORMER[True, True] = movement, soft_movement
