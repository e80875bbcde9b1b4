"""The interface of pruning methods: how they score weights, and what they do during a run."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Protocol, TypeVar

from torch import Tensor, nn

from hf_sparse.fields import Part
from hf_sparse.sparsity.allocation import Budget
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import Scores
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.sparsity.schedules import Schedule
from hf_sparse.sparsity.topk import Score
from hf_sparse.targets import Target, Targets

Settings = TypeVar("Settings", bound=Part)


class LearnedScores(Protocol):
    """Scores that an optimizer learns beside the weights, at a rate of their own and without decay."""

    learning_rate: float

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that join the optimizer."""
        ...


def settings_as(kind: type[Settings], given: Part | None) -> Settings:
    """Return the settings of a method, the defaults of their class if none are given.

    Args:
        kind: The class of settings that a run or its scores need.
        given: The settings of the method.

    Returns:
        `given`, or the defaults of `kind`.

    Raises:
        TypeError: `given` is of another class: the method names one, its run or its scores another.
    """
    if given is None:
        return kind()
    if not isinstance(given, kind):
        raise TypeError(
            f"the settings of the method are a {type(given).__name__}, and its run needs a {kind.__name__}; "
            f"give the method settings={kind.__name__}, or a subclass of it"
        )
    return given


@dataclass(frozen=True)
class PruningRun:
    """The run that a method is started for.

    Attributes:
        targets: the weights that are pruned.
        layout: the blocks of each weight, and how many of them are removed at a sparsity.
        schedule: the sparsity after each step.
        score: the method's own score of weights, if it has one.
        settings: those of the method, with what the recipe says; None if its `settings` are None.
        learned: what the method's `learn` returned; None without it.
    """

    targets: Targets
    layout: Layout
    schedule: Schedule
    score: Score | None = None
    settings: Part | None = None
    learned: LearnedScores | None = None

    @cached_property
    def final_budgets(self) -> list[Budget]:
        """How many blocks are removed in the end."""
        return self.layout.budgets(lambda final: self.schedule.final if final is None else final)

    @property
    def asked(self) -> float:
        """The share of all blocks that is removed in the end."""
        blocks = sum(weight.blocks for weight in self.layout.weights.values())
        return sum(budget.removed for budget in self.final_budgets) / blocks


class MethodRun:
    """A method during one run; this base class ranks weights by the method's score and does nothing else.

    Steps are counted from 0: step t is the state after t steps of the optimizer.
    """

    traffic: Mapping[str, float] = MappingProxyType({})
    """Memory traffic that the method adds to a step, in bytes for each weight of four bytes."""

    def __init__(self, run: PruningRun) -> None:
        self.run = run

    def gradients(self, step: int, scale: float, whole: Callable[[Target], Tensor] | None) -> float:
        """Add to the gradients of step `step` + 1, before they are masked and clipped.

        Args:
            step: Number of optimizer steps taken so far.
            scale: Factor that the loss was multiplied by before its gradients were taken.
            whole: Returns a weight (out, in) without its mask; None once no removed weight can return.

        Returns:
            The penalty, which is added to the loss that is logged.
        """
        return 0.0

    def after_step(self, step: int) -> None:
        """Act on the weights right after the optimizer's step `step` + 1, before masks are applied again."""

    def update(self, step: int) -> None:
        """Act at the end of step `step`, just before the masks are recomputed if that is due."""

    def scores(self) -> Scores:
        """Return the scores that rank blocks; the lowest are removed first.

        Returns:
            A function from weights to scores, entry by entry, or the scores of the blocks by name,
            (out / rows, in / columns).
        """
        if self.run.score is None:
            raise NotImplementedError(f"{type(self).__name__} has a method without a score; override scores")
        return self.run.score

    def budgets(self, step: int) -> list[Budget]:
        """Return how many blocks are removed after a step: what the schedule says, unless overridden."""
        schedule = self.run.schedule
        return self.run.layout.budgets(lambda final: schedule.towards(final).sparsity(step))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors that a checkpoint must hold, by section of the sidecar and name.

        A section has a name that no other has, such as `penalty` and `movement_scores`. Methods that never
        run together may share one.
        """
        return {}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Take over the sections of a sidecar.

        Args:
            state: Tensors by section of the sidecar and name, as `state` returned them.
            step: Number of optimizer steps after which they were written.

        Raises:
            ValueError: They are of another recipe or model.
        """

    def logs(self) -> dict[str, float]:
        """Return the numbers, by name, that are logged beside each training loss."""
        return {}


def _fits_all(name: str, patterns: Sequence[Pattern]) -> None:
    """Accept every pattern."""


FORMER: dict[tuple[bool, bool], "Method"] = {}
"""The methods that the former flags `learned` and `penalized` stand for; each adds itself in its file."""


@dataclass(frozen=True)
class Method:
    """A rule that says which weights matter; the lowest scores are removed first.

    A method with neither `score`, `start` nor `learn` removes nothing: the zeros that a model comes with are
    its mask to the end.

    Attributes:
        score: computes scores from weights, entry by entry.
        settings: the class of the method's settings in a recipe. They stand under the method's name; methods
            that share a class share the name of the first one in `METHODS`.
        start: makes of a run the object that acts during it; needed for penalties and for learned scores.
        learn: makes scores to be learned beside the weights, from the targets, the blocks of each by its
            name, and the settings. Removed weights may return under it.
        check: raises `ValueError` for patterns that the method cannot prune in; takes its name and them.
        learned: whether scores are learned, so that removed weights may return. Follows from `learn`.
        penalized: the former name of `needs_training`.
    """

    score: Score | None = None
    settings: type[Part] | None = None
    start: Callable[[PruningRun], MethodRun] = MethodRun
    learn: Callable[[Targets, Mapping[str, Block], Part | None], LearnedScores] | None = None
    check: Callable[[str, Sequence[Pattern]], None] = field(default=_fits_all)
    learned: bool = False
    penalized: bool = False

    def __post_init__(self) -> None:
        former = FORMER.get((self.learned, self.penalized))
        if former is not None and not self.needs_training:
            warnings.warn(
                "Method(learned=..., penalized=...) is given by start and learn now, as those of "
                "hf_sparse.sparsity.methods.movement and .group_lasso; the flags will be removed",
                FutureWarning,
                stacklevel=3,
            )
            for name in ("settings", "start", "learn", "check"):
                object.__setattr__(self, name, getattr(former, name))
        object.__setattr__(self, "learned", self.learn is not None)
        object.__setattr__(self, "penalized", self.needs_training)

    @property
    def needs_training(self) -> bool:
        """Whether steps of training prepare what is removed: they learn scores, or make weights small."""
        return self.learn is not None or self.start is not MethodRun

    @property
    def scheduled(self) -> bool:
        """Whether the method removes anything."""
        return self.score is not None or self.needs_training
