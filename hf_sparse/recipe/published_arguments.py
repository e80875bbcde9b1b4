"""The training arguments that a paper publishes with its recipe, kept beside each preset."""

from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from transformers import HfArgumentParser, TrainingArguments

from hf_sparse.readers import read_yaml_file, shortened
from hf_sparse.recipe.recipe import preset_names

_FOLDER = Path(str(files("hf_sparse.recipe"))) / "presets" / "arguments"
# The most rows a device takes at a time; more are accumulated.
_MOST_ROWS = 32
_ROWS, _ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"
# Alternatives: transformers prefers one of each group whatever the values of the others.
_SAME = ({"max_steps", "num_train_epochs", "max_tokens"}, {"warmup_steps", "warmup_ratio"})


@dataclass(frozen=True)
class RecipeArguments:
    """The published values of `TrainingArguments` for one preset and one task.

    `total_batch_size` counts the rows of one optimizer step over all devices. Raises `ValueError` for unknown
    arguments, values of a wrong type, and batch sizes given by another argument than `total_batch_size`.
    """

    source: str
    arguments: Mapping[str, Any]
    total_batch_size: int

    def __post_init__(self) -> None:
        if not isinstance(self.total_batch_size, int) or self.total_batch_size < 1:
            raise ValueError(f"total_batch_size counts rows from 1, got {shortened(self.total_batch_size)}")
        known = {field.name for field in fields(TrainingArguments) if field.init} - {_ROWS, _ACCUMULATED}
        types = get_type_hints(TrainingArguments)
        for name, value in self.arguments.items():
            if name not in known:
                raise ValueError(
                    f"{name} is not a training argument that can be published; name one of "
                    "TrainingArguments, and batches by total_batch_size"
                )
            try:
                TypeAdapter(types[name]).validate_python(value, strict=True)
            except ValidationError as error:
                raise ValueError(f"{name} is {shortened(value)}: {error.errors()[0]['msg']}") from error

    def leave(self, given: Collection[str]) -> dict[str, Any]:
        """Return the published arguments except those that are `given` or have an alternative that is."""
        taken = set(given).union(*(same for same in _SAME if same & set(given)))
        return {name: value for name, value in self.arguments.items() if name not in taken}

    def share_batch(self, training: TrainingArguments, given: Collection[str]) -> None:
        """Set rows and accumulation of `training` so that one step has `total_batch_size` rows.

        The one of the two that is `given` stays; if both are, nothing changes. If neither is, each device
        takes the largest divisor of its share up to 32 rows. Raises `ValueError` if the devices and the given
        value do not divide the batch.
        """
        if {_ROWS, _ACCUMULATED} <= set(given):
            return
        known = next((name for name in (_ROWS, _ACCUMULATED) if name in given), None)
        parts = devices(training) * (1 if known is None else getattr(training, known))
        if self.total_batch_size % parts:
            others = "" if known is None else f" with {known} {getattr(training, known)}"
            raise ValueError(
                f"the published batch of {self.total_batch_size} rows cannot be shared evenly by "
                f"{devices(training)} device(s){others}; give both --{_ROWS} and --{_ACCUMULATED}"
            )
        share = self.total_batch_size // parts
        if known is None:
            rows = max(rows for rows in range(1, _MOST_ROWS + 1) if share % rows == 0)
            setattr(training, _ROWS, rows)
            setattr(training, _ACCUMULATED, share // rows)
        else:
            setattr(training, _ACCUMULATED if known == _ROWS else _ROWS, share)

    def describe(self, training: TrainingArguments, given: Mapping[str, Any]) -> str:
        """Return in words which published arguments `training` uses, and which were `given` instead."""
        kept = self.leave(given)
        batch = (
            f"batches of {getattr(training, _ROWS)} x {getattr(training, _ACCUMULATED)} x {devices(training)}"
        )
        said = f"From {self.source}: {_list(kept)}{', ' if kept else ''}{batch} (rows, accumulated, devices)."
        published = {name: value for name, value in self.arguments.items() if name not in kept}
        names = set(published).union(*(same for same in _SAME if same & published.keys()))
        if {_ROWS, _ACCUMULATED} <= set(given):
            published["total_batch_size"] = self.total_batch_size
            names |= {_ROWS, _ACCUMULATED}
        if published:
            instead = {name: value for name, value in given.items() if name in names}
            said += f" Given: {_list(instead)}, where {_list(published)} is published."
        return said


def devices(training: TrainingArguments) -> int:
    """Return the number of devices, over all processes, that share the rows of a step."""
    return training.world_size * max(1, training.n_gpu)


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def read_recipe_arguments(recipe: str | None, task: str) -> RecipeArguments:
    """Return the published arguments for a preset and a task of the scripts, such as `fill-mask`.

    Raises `ValueError` for an unknown preset, and for a task without published arguments; the message lists
    the alternatives.
    """
    found = {name: _read(name) for name in preset_names()}
    published = {} if recipe is None else found.get(recipe, {})
    if task in published:
        return published[task]
    subject = "no --recipe is given" if recipe is None else f"recipe {recipe} has none for {task}"
    others = ", ".join(published)
    there = ", ".join(name for name, tasks in found.items() if task in tasks)
    raise ValueError(
        f"--recipe_arguments are published beside a preset, and {subject}"
        f"{others and f', only for {others}'}; leave it out and give learning rate, batch and epochs "
        f"yourself, or choose a preset that has some for {task}: {there}"
    )


def _read(preset: str) -> dict[str, RecipeArguments]:
    path = _FOLDER / f"{preset}.yaml"
    found = read_yaml_file(path) if path.is_file() else {}
    try:
        return {task: RecipeArguments(**values) for task, values in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"presets/arguments/{preset}.yaml: {error}; write source, arguments and total_batch_size for "
            "each task"
        ) from error


def given_arguments(parser: HfArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a command line, or of the one JSON or YAML file it names, without defaults.

    Raises `ValueError` for a file without a mapping, and for unknown arguments.
    """
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        values = read_yaml_file(argv[0])
        if not isinstance(values, dict):
            raise ValueError(f"{argv[0]} holds no arguments; write a mapping of their names to values")
        return values
    absent = object()
    names = {field.name for kind in parser.dataclass_types for field in fields(kind) if field.init}
    # argparse sets no defaults for names that the namespace has already.
    found, unknown = parser.parse_known_args(list(argv), Namespace(**dict.fromkeys(names, absent)))
    if unknown:
        raise ValueError(f"no argument takes {' '.join(unknown)}; --help lists them all")
    return {name: value for name, value in vars(found).items() if value is not absent}
