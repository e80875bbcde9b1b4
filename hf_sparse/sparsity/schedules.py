"""Schedules: the sparsity after each training step, as pure functions of the step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

# The share of the ramp's height at a share of its length; both in [0, 1].
SHAPES: dict[str, Callable[[float], float]] = {
    "cubic": lambda elapsed: 1 - (1 - elapsed) ** 3,  # Zhu & Gupta 2017, arXiv:1710.01878, equation 1
    "linear": lambda elapsed: elapsed,
    "one_shot": lambda elapsed: 1.0,
    "constant": lambda elapsed: 1.0,
}


@dataclass(frozen=True)
class Schedule:
    """Target sparsity at each step; step t means "after t optimizer steps".

    Sparsity rises from `initial` at `begin` to `final` at `ramp_end`. Masks are recomputed every `every`
    steps from `begin` on, always at `ramp_end`, and not after `update_end`. An update less than a fifth of
    `every` before `ramp_end` is left out: rounding shares of a run to steps produces such.
    """

    shape: str
    initial: float
    final: float
    begin: int
    ramp_end: int
    update_end: int
    every: int
    total_steps: int

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"schedule shape {self.shape!r} is unknown; choose one of {sorted(SHAPES)}")
        for name in ("initial", "final"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} sparsity is a share in [0, 1), got {getattr(self, name)}")
        if self.initial > self.final:
            raise ValueError(
                f"initial sparsity {self.initial} exceeds final sparsity {self.final}; sparsity only grows"
            )
        if self.every < 1:
            raise ValueError(f"every counts steps from 1, got {self.every}")
        if not 0 <= self.begin <= self.ramp_end:
            raise ValueError(
                f"the ramp begins at step {self.begin}, after its end at step {self.ramp_end}; move begin "
                "forward"
            )
        if self.ramp_end > self.total_steps - 1:
            raise ValueError(
                f"ramp_end is step {self.ramp_end} of {self.total_steps}, but at least one step must train "
                "at the final "
                f"sparsity; move ramp_end to {self.total_steps - 1} or earlier, or train longer"
            )
        if not self.ramp_end <= self.update_end <= self.total_steps:
            raise ValueError(
                f"update_end must lie between ramp_end and the last step, got step {self.update_end} "
                f"outside [{self.ramp_end}, {self.total_steps}]"
            )

    def towards(self, final: float | None) -> "Schedule":
        """Return this schedule with another final sparsity, initial no higher; None keeps its own."""
        return self if final is None else replace(self, final=final, initial=min(self.initial, final))

    def sparsity(self, step: int) -> float:
        """Return the target share of removed weights after `step` optimizer steps."""
        if step >= self.ramp_end:
            return self.final
        if step < self.begin:
            return self.initial
        elapsed = (step - self.begin) / (self.ramp_end - self.begin)
        return self.initial + (self.final - self.initial) * SHAPES[self.shape](elapsed)

    def is_update(self, step: int) -> bool:
        """Return whether the masks are recomputed after `step` optimizer steps."""
        if not self.begin <= step <= self.update_end:
            return False
        return step == self.ramp_end or step == self.interval_start(step)

    def interval_start(self, step: int) -> int:
        """Return the first step of the interval between updates that `step`, not before `begin`, lies in."""
        start = step - (step - self.begin) % self.every
        merges = self.begin < start < self.ramp_end and 5 * (self.ramp_end - start) < self.every
        return start - self.every if merges else start

    def is_update_left(self, step: int) -> bool:
        """Return whether any update follows those made after `step` optimizer steps."""
        return step < max(self.ramp_end, self.update_end - (self.update_end - self.begin) % self.every)

    def is_last_update(self, step: int) -> bool:
        """Return whether the update after `step` optimizer steps is the last one."""
        return self.is_update(step) and not self.is_update_left(step)

    def is_final(self, step: int) -> bool:
        """Return whether the final sparsity holds after `step` optimizer steps."""
        return step >= self.ramp_end
