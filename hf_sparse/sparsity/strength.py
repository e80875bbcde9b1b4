"""How strongly groups are pushed towards zero, adjusted so that the share asked for arrives there in time."""

from dataclasses import dataclass
from math import isfinite

# How many times what it began with a strength may become.
_MOST = 100.0


@dataclass
class Strength:
    """A factor that makes a level fall to 1 within the steps that are left.

    The level is that of the largest group which is to be gone at the end, as a multiple of the size at which
    it counts as gone. It says from the first step on how fast groups shrink, where counting those that are
    gone would say nothing until it is too late. The factor stays below 100 times what it was at `first`:
    where an optimizer cannot move weights so fast, a larger one would only drown the task.
    """

    first: float
    value: float = 0.0
    level: float | None = None

    def __post_init__(self) -> None:
        self.value = self.value or self.first

    def adjust(self, level: float, since: int, left: int, power: float = 1.0) -> None:
        """Follow a level seen `since` steps after the one before, `left` steps before it should be 1.

        What is left of its way is to shrink as this power of the time that is left. The factor changes by
        the square root of what the pace is off, at most twice: steps of the optimizer carry on what went
        before.
        """
        before, self.level = self.level, level
        if before is None or not isfinite(level - before):
            return
        needed, pace = power * (level - 1) / left, (before - level) / since
        off = 4.0 if needed > 0 >= pace else 0.25 if needed <= 0 else needed / pace
        self.value = min(self.value * min(max(off, 0.25), 4.0) ** 0.5, _MOST * self.first)
