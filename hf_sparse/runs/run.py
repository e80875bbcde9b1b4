"""A finished run as its files describe it: record, log, scores and latencies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import CONFIG_NAME

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.checkpoint.run_record import is_local, read_record
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.runs.history import STATE, furthest_state, read_log
from hf_sparse.runs.latency import LatencyReport
from hf_sparse.runs.results import EVALUATION, read_measured, scores_in

LATENCY = "latency*.json"


@dataclass(frozen=True)
class SavedRun:
    """One run: its directory and the contents of its files, None or empty for a missing file.

    `scores` maps metrics to the results of the last evaluation, on `samples` examples, read from
    `scores_file`. `latencies` are the contents of `latency_files`, which `latency_reports` checks.
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
        """The recipe of the run, empty without a record."""
        return Recipe.from_dict(self.record["recipe"] if self.record else {})

    def latency_reports(self) -> tuple[LatencyReport, ...]:
        """Return the latencies, in the order of `latency_files`; raise `ValueError` for a damaged file."""
        return tuple(map(self._latency, self.latency_files, self.latencies))

    def _latency(self, file: str, found: Mapping[str, Any]) -> LatencyReport:
        try:
            return LatencyReport.from_dict(found, file)
        except ValueError as error:
            raise ValueError(
                f"{self.directory / file} is not what hf-sparse benchmark --json writes ({error}); measure "
                "again, or delete it"
            ) from error


def read_run(directory: str | Path) -> SavedRun:
    """Read the files of a run; raise `ValueError` if the model is missing or a file is damaged.

    Scores come from `eval_results.json`, as `Trainer.save_metrics("eval", ...)` writes it, else from the
    evaluation after the last step in the Trainer's log. If the Trainer tracked the best model and an earlier
    step was the best, the model may be of that step, and scores in the log are not used.
    """
    directory = Path(directory)
    if not (directory / CONFIG_NAME).is_file():
        raise ValueError(
            f"{directory} lacks a model: {CONFIG_NAME} is missing; name the output directory of a run"
        )
    record = read_record(directory)
    logged = (directory / STATE).is_file() or any(directory.glob(f"checkpoint-*/{STATE}"))
    log = read_log(directory) if logged else []
    scores, samples, source = _scores(directory, log, record)
    timed = sorted(directory.glob(LATENCY))
    latencies, files = tuple(read_measured(path) for path in timed), tuple(path.name for path in timed)
    return SavedRun(directory, record, log, scores, samples, source, latencies, files)


def is_outdated(file: Path, record: Mapping[str, Any] | None) -> bool:
    """Return whether a file is older than the end of the training that the record describes.

    Its measurements are then of an earlier model. Copying makes files newer, never older.
    """
    date = record and record.get("date")
    return bool(date) and file.stat().st_mtime < datetime.fromisoformat(str(date)).timestamp()


def pipeline_of(run: SavedRun) -> list[SavedRun]:
    """Return the runs that led to a run, in order, and the run itself, if they lie on this machine."""
    stages, seen = [run], {run.directory.resolve()}
    while (
        before := origin_of(stages[0], "base_model")
    ) is not None and before.directory.resolve() not in seen:
        seen.add(before.directory.resolve())
        stages.insert(0, before)
    return stages


def origin_of(run: SavedRun, role: str) -> SavedRun | None:
    """Return the run of the model that another run names as its `base_model` or `teacher`.

    It is looked for where the record says, then in a directory of the same name beside the run. None if it is
    missing, if the name is one on the Hub, or if the run itself lies in that place.
    """
    named = run.record and run.record.get(role)
    if not named or not is_local(named):
        return None
    own = run.directory.resolve()
    for place in (Path(named), own.parent / Path(named).name):
        if place.is_absolute() and place.resolve() != own and (place / CONFIG_NAME).is_file():
            return read_run(place)
    return None


def find_runs(directory: str | Path) -> list[SavedRun]:
    """Return the run in a directory, or else the runs in its subdirectories, in the order they were made.

    An interrupted run is represented by its last checkpoint. Raises `ValueError` if there are none.
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
    """Return the directory of a run's model: its own, or that of its last checkpoint."""
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
        found = dict(next((line for line in reversed(log) if line["step"] == last), {}))
        source = STATE
    scores, samples = scores_in(found)
    return scores, samples, source if scores else None


def _may_be_earlier(state: Mapping[str, Any]) -> bool:
    """Return whether a run may have gone back to its best model at the end."""
    best = state.get("best_global_step")
    return best is not None and best != state.get("global_step")
