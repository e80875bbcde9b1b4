"""What to do to a model while it trains, as one checked value."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from hf_sparse.reading import explain, parse_assignment, read_yaml
from hf_sparse.sparsity.allocation import ALLOCATIONS
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.patterns import parse_pattern
from hf_sparse.sparsity.schedules import SHAPES, Schedule


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _one_of(choices: Iterable[str]) -> AfterValidator:
    names = sorted(choices)

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"choose one of {', '.join(names)}")
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


def _steps(point: int | str, total_steps: int) -> int:
    return point if isinstance(point, int) else round(float(point[:-1]) / 100 * total_steps)


class ScheduleRecipe(_Part):
    """When how much is removed; see `Schedule`, which it becomes once the length of the run is known."""

    final: Share
    shape: Annotated[str, _one_of(SHAPES)] = "cubic"
    initial: Share = 0.0
    begin: Point = "0%"
    ramp_end: Point | None = None
    update_end: Point | None = None
    every: Point = "1%"

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.shape in ("one_shot", "constant") and (self.ramp_end is not None or self.initial):
            raise ValueError(
                f"a {self.shape} schedule has no ramp; leave out initial and ramp_end, or choose another "
                "shape"
            )
        if self.shape == "constant" and self.begin not in (0, "0%"):
            raise ValueError(
                "a constant schedule holds from the first step; leave out begin, or choose one_shot"
            )
        if self.initial > self.final:
            raise ValueError(
                f"initial sparsity {self.initial} exceeds final sparsity {self.final}; sparsity only grows"
            )
        return self

    def resolve(self, total_steps: int) -> Schedule:
        """Turn shares of the run into steps; raise `ValueError` where the result cannot be run."""
        begin = _steps(self.begin, total_steps)
        ramp_end = (
            begin
            if self.shape in ("one_shot", "constant")
            else _steps("50%" if self.ramp_end is None else self.ramp_end, total_steps)
        )
        update_end = ramp_end if self.update_end is None else _steps(self.update_end, total_steps)
        # A share that rounds to nothing means "as often as there are steps"; a written 0 is an error.
        every = self.every if isinstance(self.every, int) else max(_steps(self.every, total_steps), 1)
        return Schedule(self.shape, self.initial, self.final, begin, ramp_end, update_end, every, total_steps)


class SparsityRecipe(_Part):
    """Which weights are removed, how they are chosen, and when."""

    method: Annotated[str, _one_of(METHODS)] = "magnitude"
    pattern: Annotated[str, AfterValidator(lambda text: str(parse_pattern(text)))] = "unstructured"
    schedule: ScheduleRecipe | None = None
    allocation: Annotated[str, _one_of(ALLOCATIONS)] = "uniform"
    lr_rewind: bool = False
    include: tuple[str, ...] = Field(default=(), strict=False)
    exclude: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        scheduled = METHODS[self.method].score is not None
        if scheduled and self.schedule is None:
            raise ValueError(f"method {self.method} needs a schedule; add at least schedule: {{final: 0.9}}")
        if not scheduled:
            extra = self.model_fields_set & {"schedule", "pattern", "allocation", "lr_rewind"}
            if extra:
                raise ValueError(
                    f"method {self.method} keeps the zeros the model comes with, so "
                    f"{', '.join(sorted(extra))} "
                    "would have no effect; leave it out"
                )
        if self.lr_rewind and self.schedule.shape in ("one_shot", "constant"):
            raise ValueError(
                f"lr_rewind rewinds during a ramp, and a {self.schedule.shape} schedule has none; set "
                "lr_rewind: false"
            )
        return self


class DistillationRecipe(_Part):
    """Weights of the loss terms and the temperature of the softened distributions."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    task: Weight = 0.5
    logits: Weight = 0.5

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.logits:
            raise ValueError(
                "logits has weight 0, so the teacher would be run for nothing; leave distillation out"
            )
        return self


class Recipe(_Part):
    """Everything hf_sparse does in one training run; `Recipe()` does nothing."""

    sparsity: SparsityRecipe | None = None
    distillation: DistillationRecipe | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Check a nested mapping; raise `ValueError` naming every unknown key and wrong value."""
        if not isinstance(values, Mapping):
            raise ValueError(
                f"a recipe is a mapping of sparsity and distillation, got {type(values).__name__}"
            )
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ValueError(explain(error, cls)) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Recipe":
        """Read a YAML file."""
        return cls.from_dict(read_yaml(Path(path).read_text(encoding="utf-8")))

    @classmethod
    def preset(cls, name: str) -> "Recipe":
        """Return a recipe that comes with the package."""
        if name not in preset_names():
            raise ValueError(
                f"no preset is called {name!r}; choose one of {', '.join(preset_names())}, or give a YAML "
                "file"
            )
        return cls.from_dict(read_yaml((_PRESETS / f"{name}.yaml").read_text(encoding="utf-8")))

    def override(self, assignments: Iterable[str]) -> "Recipe":
        """Return a copy with dotted assignments made, such as `distillation=null`."""
        values = self.to_dict()
        for assignment in assignments:
            path, value = parse_assignment(assignment)
            part = values
            for key in path[:-1]:
                part[key] = part.get(key) or {}
                part = part[key]
                if not isinstance(part, dict):
                    raise ValueError(f"{assignment!r}: {key} is a value, not a group of settings")
            part[path[-1]] = value
        return type(self).from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, ready for `from_dict`."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def digest(self) -> str:
        """Return a hash of all settings, defaults included."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


_PRESETS = files("hf_sparse") / "presets"


def preset_names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _PRESETS.iterdir() if entry.name.endswith(".yaml")
    )
