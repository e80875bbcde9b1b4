"""All that the files of a finished run say of it: its record, its log, what was measured of its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import CONFIG_NAME

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.reading import read_json, shortened
from hf_sparse.recipe import Recipe
from hf_sparse.report.history import STATE, furthest_state, is_number, read_log
from hf_sparse.training.record import is_local, read_record

EVALUATION, LATENCY = "eval_results.json", "latency*.json"
_PREFIX = "eval_"
# Scripts of masked language modelling call the one score so that has no prefix.
_PREFIXES = (_PREFIX, "perplexity")
_MEASURED, _WAY_OUT = "measurement of a model", "measure again, or delete it"
# What an evaluation reports of itself and not of the model.
_CLOCK = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "samples")


@dataclass(frozen=True)
class Run:
    """One run: where it lies and what its files hold, None or empty where there is no such file.

    `scores` are those of the last evaluation, by the names of their metrics, `samples` how many examples it
    was made on. `scores_file` is the name of the file that holds them. `latencies` are as `latency_as_dict`
    makes them, those of `latency_files`.
    """

    directory: Path
    record: Mapping[str, Any] | None
    log: Sequence[Mapping[str, float]] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    scores_file: str | None = None
    latencies: tuple[Mapping[str, Any], ...] = ()
    latency_files: tuple[str, ...] = ()

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
    evaluation after the last step in the Trainer's log. Where a best model was kept track of, and another
    step was the best, the model may be that one's: then the log has no scores of it.
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
    timed = sorted(directory.glob(LATENCY))
    latencies, files = tuple(read_measured(path) for path in timed), tuple(path.name for path in timed)
    return Run(directory, record, log, scores, samples, source, latencies, files)


def is_outdated(file: Path, record: Mapping[str, Any] | None) -> bool:
    """Say whether a file is older than the end of the training that a record is of.

    What it says of the model was measured of an earlier one then. Copying makes files newer, never older.
    """
    date = record and record.get("date")
    return bool(date) and file.stat().st_mtime < datetime.fromisoformat(date).timestamp()


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

    It lies where the record says, or in a directory of the same name beside the run. None if it is not there,
    if it is named as on the Hub, and if the run itself lies in its place.
    """
    named = run.record and run.record.get(role)
    if not named or not is_local(named):
        return None
    own = run.directory.resolve()
    for place in (Path(named), own.parent / Path(named).name):
        if place.is_absolute() and place.resolve() != own and (place / CONFIG_NAME).is_file():
            return read_run(place)
    return None


def find_runs(directory: str | Path) -> list[Run]:
    """Return the run in a directory, or else those in the directories in it, in the order they were made.

    A run that was interrupted is its last checkpoint. Raises `ValueError` if there is none.
    """
    directory = Path(directory)
    recover_directory(directory)
    if (own := _model_in(directory)) is not None:
        return [read_run(own)]
    inner = sorted(directory.iterdir()) if directory.is_dir() else []
    runs = [read_run(place) for path in inner if (place := _model_in(path)) is not None]
    if not runs:
        raise ValueError(
            f"{directory} holds no model, nor does a directory in it; name the output directory of a run"
        )
    return sorted(runs, key=lambda run: (run.record or {}).get("date") or "")


def _model_in(directory: Path) -> Path | None:
    """Return where the model of a run lies: in its directory, or in its last checkpoint."""
    if not directory.is_dir() or (directory / CONFIG_NAME).is_file():
        return directory if directory.is_dir() else None
    last = get_last_checkpoint(str(directory))
    return None if last is None or not (Path(last) / CONFIG_NAME).is_file() else Path(last)


def _scores(
    directory: Path, log: Sequence[Mapping[str, float]], record: Mapping[str, Any] | None
) -> tuple[dict[str, float], int | None, str | None]:
    if (directory / EVALUATION).is_file():
        found, source = read_measured(directory / EVALUATION), EVALUATION
    elif log and _may_be_earlier(furthest_state(directory)):
        return {}, None, None
    else:
        last = record["step"] if record else max((line["step"] for line in log), default=0)
        found = next((line for line in reversed(log) if line["step"] == last), {})
        source = STATE
    scores, samples = scores_in(found)
    return scores, samples, source if scores else None


def scores_in(results: Mapping[str, Any]) -> tuple[dict[str, float], int | None]:
    """Return the scores among what `Trainer.save_metrics` writes, and on how many examples they were made."""
    numbers = {
        name.removeprefix(_PREFIX): value
        for name, value in results.items()
        if name.startswith(_PREFIXES) and is_number(value) and isfinite(value)
    }
    samples = numbers.get("samples")
    scores = {name: value for name, value in numbers.items() if not name.startswith(_CLOCK)}
    return scores, None if samples is None else int(samples)


def _may_be_earlier(state: Mapping[str, Any]) -> bool:
    """Say whether a run that ended in a state may have gone back to its best model."""
    best = state.get("best_global_step")
    return best is not None and best != state.get("global_step")


def read_measured(path: Path) -> dict[str, Any]:
    """Return what a file says was measured of a model; raise `ValueError` if it is damaged."""
    found = read_json(path, _MEASURED, _WAY_OUT)
    zeros = found.get("sparsity")
    if zeros is not None and not (is_number(zeros) and 0 <= zeros <= 1):
        raise ValueError(f"{path} is not a valid {_MEASURED} (a sparsity of {shortened(zeros)}); {_WAY_OUT}")
    return found
