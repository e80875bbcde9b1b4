"""The part of a recipe about sparsity."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails

from hf_sparse.fields import Part, Point, Share, one_of, steps_of
from hf_sparse.sparsity.allocation import ALLOCATIONS
from hf_sparse.sparsity.methods import METHODS
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.schedules import SHAPES, Schedule


class ScheduleRecipe(Part):
    """How much is removed by when; it becomes a `Schedule` once the length of the run is known.

    Points are steps such as 1000, or shares of the run such as "50%".
    """

    final: Share
    shape: Annotated[str, one_of(SHAPES)] = "cubic"
    initial: Share = 0.0
    begin: Point = "0%"
    ramp_end: Point | None = None
    update_end: Point | None = None
    every: Point = "1%"

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.shape in ("one_shot", "constant") and (self.ramp_end is not None or self.initial):
            raise ValueError(
                f"a {self.shape} schedule lacks a ramp; leave out initial and ramp_end, or choose another "
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

    def _ramp_end(self, begin: int, total_steps: int) -> int:
        if self.shape in ("one_shot", "constant"):
            return begin
        return _with_a_step_left("50%" if self.ramp_end is None else self.ramp_end, total_steps)

    def resolve(self, total_steps: int) -> Schedule:
        """Turn shares of the run into steps; raise `ValueError` where the result cannot be run."""
        begin = _with_a_step_left(self.begin, total_steps)
        ramp_end = self._ramp_end(begin, total_steps)
        update_end = ramp_end if self.update_end is None else steps_of(self.update_end, total_steps)
        # A share that rounds to 0 means every step; a written 0 is an error.
        every = self.every if isinstance(self.every, int) else max(steps_of(self.every, total_steps), 1)
        return Schedule(self.shape, self.initial, self.final, begin, ramp_end, update_end, every, total_steps)


def _with_a_step_left(point: int | str, total_steps: int) -> int:
    """Return the step of a point; in a very short run a share below 100 % is not rounded up to all of it."""
    step = steps_of(point, total_steps)
    rounded_up = isinstance(point, str) and point != "100%" and step == total_steps
    return total_steps - 1 if rounded_up else step


def _pattern(text: str) -> str:
    return str(parse_pattern(text))


PatternName = Annotated[str, AfterValidator(_pattern)]


def _rewind(value: object) -> object:
    if not isinstance(value, bool) and value != "cyclic":
        raise ValueError("write true, false or cyclic")
    return value


class OverrideRecipe(Part):
    """Another final sparsity, another pattern, or both, for some weights."""

    sparsity: Share | None = None
    pattern: PatternName | None = None

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.pattern is not None and self.sparsity is not None:
            check_share(self.pattern, self.sparsity, "sparsity")
        if self.pattern is None and self.sparsity is None:
            raise ValueError(
                "an override changes sparsity, pattern or both; to leave weights out use exclude"
            )
        return self


def check_share(pattern: str, sparsity: float, setting: str) -> None:
    """Raise `ValueError` if a pattern has one fixed sparsity and it is not this one."""
    share = parse_pattern(pattern).share
    if share is not None and abs(share - sparsity) > 1e-3:
        raise ValueError(
            f"pattern {pattern} removes {share:.4g} of every weight, got {sparsity}; "
            f"set {setting}={share:.4g}"
        )


def method_settings() -> dict[str, tuple[str, ...]]:
    """Return the methods that share settings, by the key of these in a recipe: the name of the first one."""
    sharing: dict[type[Part], list[str]] = {}
    for name, method in METHODS.items():
        if method.settings is not None:
            sharing.setdefault(method.settings, []).append(name)
    return {names[0]: tuple(names) for names in sharing.values()}


class SparsityRecipe(Part):
    """Which weights are removed, how they are chosen, and when.

    The settings of a method stand beside these fields, under a key of `method_settings`. They are not
    declared here, since methods may be added to `METHODS` at any time.
    """

    model_config = ConfigDict(extra="allow")

    method: Annotated[str, one_of(METHODS)] = "magnitude"
    pattern: PatternName = "unstructured"
    schedule: ScheduleRecipe | None = None
    allocation: Annotated[str, one_of(ALLOCATIONS)] = "uniform"
    floor: Share = 0.01
    overrides: dict[str, OverrideRecipe] = Field(default_factory=dict)
    revive: bool = False
    lr_rewind: Annotated[bool | str, BeforeValidator(_rewind)] = False
    include: tuple[str, ...] = Field(default=(), strict=False)
    exclude: tuple[str, ...] = Field(default=(), strict=False)

    @property
    def revives(self) -> bool:
        """Whether removed weights may return."""
        return self.revive or METHODS[self.method].learned

    @property
    def own_settings(self) -> Part | None:
        """The settings of the method, its defaults where the recipe has none; None if it takes none."""
        kind = METHODS[self.method].settings
        if kind is None:
            return None
        key = next(key for key, methods in method_settings().items() if self.method in methods)
        given = getattr(self, key)
        return kind() if given is None else given

    def __getattr__(self, name: str) -> Any:
        """Return the settings under a key, None where the recipe has none."""
        if name in method_settings():
            return (self.model_extra or {}).get(name)
        return super().__getattr__(name)  # type: ignore[misc]  # pydantic hides it from type checkers

    @classmethod
    def further_keys(cls) -> dict[str, type[Part]]:
        """Return the class of settings under each key that is not a field."""
        return {key: kind for key in method_settings() if (kind := METHODS[key].settings) is not None}

    @model_validator(mode="wrap")
    @classmethod
    def _read_settings(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check the keys that are not fields: settings of methods, and unknown ones."""
        if not isinstance(values, dict) or not values.keys() - cls.model_fields.keys():
            return handler(values)
        fields = {key: value for key, value in values.items() if key in cls.model_fields}
        further = {key: value for key, value in values.items() if key not in cls.model_fields}
        kinds: dict[str, Any] = {key: (kind | None, None) for key, kind in cls.further_keys().items()}
        try:
            read = create_model("MethodSettings", __base__=Part, **kinds).model_validate(further)
        except ValidationError as error:
            try:
                handler(fields)
            except ValidationError as other:
                raise _joined(other, error) from None
            raise
        given = {key: settings for key in further if (settings := getattr(read, key)) is not None}
        return handler(fields | given)

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        extra = self.model_fields_set - {"method", "include", "exclude"}
        if not METHODS[self.method].scheduled:
            if extra:
                raise ValueError(
                    f"method {self.method} keeps the zeros the model comes with, so "
                    f"{', '.join(sorted(extra))} would be ignored; leave it out"
                )
        elif self.schedule is None:
            raise ValueError(f"method {self.method} needs a schedule; add at least schedule: {{final: 0.9}}")
        else:
            check_share(self.pattern, self.schedule.final, "sparsity.schedule.final")
            for expression, own in self.overrides.items():
                if own.sparsity is not None:
                    setting = f"the sparsity of override {expression!r}"
                    check_share(own.pattern or self.pattern, own.sparsity, setting)
            if parse_pattern(self.pattern).share is not None and self.allocation != "uniform":
                raise ValueError(
                    f"pattern {self.pattern} removes the same share of every weight, so allocation "
                    f"{self.allocation} has nothing to allocate; set sparsity.allocation=uniform"
                )
        for part, methods in method_settings().items():
            if part in type(self).model_fields:
                raise ValueError(
                    f"method {part} has settings, and sparsity.{part} is something else; add it to METHODS "
                    "under another name"
                )
            if getattr(self, part) is not None and self.method not in methods:
                raise ValueError(
                    f"{part} does not apply to method {self.method}; leave it out, or set method: "
                    f"{methods[0]}"
                )
        patterns = [self.pattern, *(own.pattern for own in self.overrides.values() if own.pattern)]
        METHODS[self.method].check(self.method, [parse_pattern(pattern) for pattern in patterns])
        if self.revive and METHODS[self.method].needs_training:
            others = [name for name, known in METHODS.items() if known.scheduled and not known.needs_training]
            raise ValueError(
                f"revive applies to {', '.join(others)} only: method {self.method} decides itself whether "
                "removed weights return; leave it out"
            )
        if self.lr_rewind and self.schedule is not None and self.schedule.shape in ("one_shot", "constant"):
            raise ValueError(
                f"lr_rewind rewinds during a ramp, and a {self.schedule.shape} schedule has none; set "
                "lr_rewind: false"
            )
        return self


def _joined(one: ValidationError, other: ValidationError) -> ValidationError:
    """Return one error with the mistakes of both."""
    details = [
        InitErrorDetails(
            type=detail["type"], loc=detail["loc"], input=detail["input"], ctx=detail.get("ctx", {})
        )
        for detail in (*one.errors(), *other.errors())
    ]
    return ValidationError.from_exception_data(one.title, details)
