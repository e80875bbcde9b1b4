"""The kinds of values that recipes, and the settings of pruning methods, are made of."""

from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Part(BaseModel):
    """A group of settings: frozen, with strict types, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def one_of(choices: Collection[str]) -> AfterValidator:
    """Return a check that a value is among `choices`, which may grow until the check is made."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"choose one of {', '.join(sorted(choices))}")
        return value

    return AfterValidator(check)


def _point(value: object) -> object:
    """Accept a step such as 1000 or a share of the run such as '50%'."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.endswith("%"):
        try:
            if 0 <= float(value[:-1]) <= 100:
                return value
        except ValueError:
            pass
    raise ValueError(
        "a point in time is a whole number of steps such as 1000, or a share of the run such as '50%'"
    )


def _share(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError("a sparsity is the share of weights to remove, in [0, 1), such as 0.9")
    return value


Point = Annotated[int | str, BeforeValidator(_point)]
Share = Annotated[float, AfterValidator(_share)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def steps_of(point: int | str, total_steps: int) -> int:
    """Return a point as a number of steps: as it is, or a share such as "50%" of all steps."""
    return point if isinstance(point, int) else round(float(point[:-1]) / 100 * total_steps)
