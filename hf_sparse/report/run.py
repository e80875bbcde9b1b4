"""All that the files of a finished run say of it: its record, its log, what was measured of its model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from hf_sparse.recipe import Recipe
from hf_sparse.report.history import STATE, read_log
from hf_sparse.training.record import read_record

EVALUATION, LATENCY = "eval_results.json", "latency*.json"
_PREFIX = "eval_"
# Scripts of masked language modelling call the one score so that has no prefix.
_PREFIXES = (_PREFIX, "perplexity")
# What an evaluation reports of itself and not of the model.
_CLOCK = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "samples")


@dataclass(frozen=True)
class Run:
    """One run: where it lies and what its files hold, None or empty where there is no such file.

    `scores` are those of the last evaluation, by the names of their metrics, `samples` how many examples it
    was made on. `scores_file` is the name of the file that holds them. `latencies` are as `latency_as_dict`
    makes them.
    """

    directory: Path
    record: Mapping[str, Any] | None
    log: Sequence[Mapping[str, float]] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    scores_file: str | None = None
    latencies: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @property
    def recipe(self) -> Recipe:
        """What the run did; nothing, where there is no record."""
        return Recipe.from_dict(self.record["recipe"] if self.record else {})


def read_run(directory: str | Path) -> Run:
    """Read the files of a run; raise `ValueError` if there is no model, or for a file that is damaged.

    Scores come from `eval_results.json`, as `Trainer.save_metrics("eval", ...)` writes it, else from the
    evaluation after the last step in the Trainer's log.
    """
    directory = Path(directory)
    if not (directory / CONFIG_NAME).is_file():
        raise ValueError(
            f"{directory} holds no model, there is no {CONFIG_NAME} in it; name the output directory of a run"
        )
    record = read_record(directory)
    logged = (directory / STATE).is_file() or any(directory.glob(f"checkpoint-*/{STATE}"))
    log = read_log(directory) if logged else []
    scores, samples, source = _scores(directory, log, record)
    latencies = tuple(_read(path) for path in sorted(directory.glob(LATENCY)))
    return Run(directory, record, log, scores, samples, source, latencies)


def pipeline_of(run: Run) -> list[Run]:
    """Return a run after those it started from, the first one first, as far as they lie on this machine."""
    stages, seen = [run], {run.directory.resolve()}
    while (
        before := origin_of(stages[0], "base_model")
    ) is not None and before.directory.resolve() not in seen:
        seen.add(before.directory.resolve())
        stages.insert(0, before)
    return stages


def origin_of(run: Run, role: str) -> Run | None:
    """Return the run that made a model which another one names as its `base_model` or `teacher`.

    It lies where the record says, or under the same name beside the run. None if it is not there.
    """
    named = run.record and run.record.get(role)
    if not named:
        return None
    for place in (Path(named), run.directory.resolve().parent / Path(named).name):
        if place.is_absolute() and (place / CONFIG_NAME).is_file():
            return read_run(place)
    return None


def find_runs(directory: str | Path) -> list[Run]:
    """Return the run in a directory, or else those in the directories in it, in the order they were made.

    Raises `ValueError` if there is none.
    """
    directory = Path(directory)
    if (directory / CONFIG_NAME).is_file():
        return [read_run(directory)]
    inner = sorted(path.parent for path in directory.glob(f"*/{CONFIG_NAME}")) if directory.is_dir() else []
    if not inner:
        raise ValueError(
            f"{directory} holds no model, nor does a directory in it; name the output directory of a run"
        )
    runs = [read_run(path) for path in inner]
    return sorted(runs, key=lambda run: (run.record or {}).get("date", ""))


def _scores(
    directory: Path, log: Sequence[Mapping[str, float]], record: Mapping[str, Any] | None
) -> tuple[dict[str, float], int | None, str | None]:
    if (directory / EVALUATION).is_file():
        found, source = _read(directory / EVALUATION), EVALUATION
    else:
        last = record["step"] if record else max((line["step"] for line in log), default=0)
        found = next((line for line in reversed(log) if line["step"] == last), {})
        source = STATE
    numbers = {
        name.removeprefix(_PREFIX): value
        for name, value in found.items()
        if name.startswith(_PREFIXES) and isinstance(value, int | float) and isfinite(value)
    }
    scores = {name: value for name, value in numbers.items() if not name.startswith(_CLOCK)}
    samples = numbers.get("samples")
    return scores, None if samples is None else int(samples), source if scores else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); measure again, or delete it") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not what was measured of a model; measure again, or delete it")
    return found
