"""Which measured numbers a card may show: those of its model, and those of a comparable dense model."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.run_record import read_record
from hf_sparse.hub.card.card_data import Dense, Scores
from hf_sparse.hub.card.options import Outdated
from hf_sparse.hub.card.weights import format_of, load_to_measure, targets_of
from hf_sparse.runs.results import EVALUATION, read_measured, scores_in
from hf_sparse.runs.run import SavedRun, is_outdated, origin_of, read_run
from hf_sparse.runs.score_text import worth_showing
from hf_sparse.sparsity.measure import measure_sparsity

logger = logging.getLogger(__name__)

# By how much a share of zeros may differ from a file that may have rounded it.
_TOLERANCE = 1e-4
_OLDER = "is older than the end of the training, so it is of an earlier model"
_TASK = ("task", "dataset", "config", "split")


def only_current(run: SavedRun, model: PreTrainedModel, architecture: str, outdated: Outdated) -> SavedRun:
    """Return a run with only the scores and latencies that are of its model.

    For others `outdated="refuse"` raises `ValueError`, and `"leave out"` warns.
    """
    if (reason := why_not_its_scores(run, model)) is not None:
        _refuse_or_warn(reason, outdated)
        run = replace(run, scores={}, samples=None, scores_file=None)
    timed = []
    for file, found in zip(run.latency_files, run.latencies, strict=True):
        reason = _why_not_its_latency(run, file, found, architecture)
        if reason is None:
            timed.append((file, found))
        else:
            _refuse_or_warn(reason, outdated)
    files, latencies = tuple(file for file, _ in timed), tuple(found for _, found in timed)
    return replace(run, latency_files=files, latencies=latencies)


def _refuse_or_warn(reason: str, outdated: Outdated) -> None:
    if outdated == "refuse":
        raise ValueError(reason)
    logger.warning("Left out of the card: %s", reason)


def why_not_its_scores(run: SavedRun, model: PreTrainedModel) -> str | None:
    """Return why the scores of a run are not those of its model, None if they may be."""
    if run.scores_file is None:
        return None
    file = run.directory / run.scores_file
    if run.scores_file == EVALUATION and is_outdated(file, run.record):
        return f"{file} {_OLDER}; evaluate again, or delete it"
    if (said := _said_sparsity(run)) is None:
        return None
    found = measure_sparsity(model, targets_of(run, model)).overall
    # Rounding to a few bits makes more zeros.
    rounded = format_of(run.directory) is not None
    if found < said - _TOLERANCE or (found > said + _TOLERANCE and not rounded):
        return (
            f"{file} is of a model with {said:.2%} zeros and this one has {found:.2%}, so its scores are not "
            "this model's; evaluate again, or delete the file"
        )
    return None


def _said_sparsity(run: SavedRun) -> float | None:
    """Return the share of zeros that the file with the scores names, None if it names none."""
    if run.scores_file == EVALUATION:
        return read_measured(run.directory / EVALUATION).get("sparsity")
    return next((line["sparsity"] for line in reversed(run.log) if "sparsity" in line), None)


def _why_not_its_latency(run: SavedRun, name: str, found: Mapping[str, Any], architecture: str) -> str | None:
    file = run.directory / name
    if is_outdated(file, run.record):
        return f"{file} {_OLDER}; measure again, or delete it"
    # A file without an architecture is refused when its latencies are read.
    timed = found.get("architecture", architecture)
    if timed != architecture:
        return f"{file} is of a {timed} and the model is a {architecture}; measure again, or delete it"
    return None


def scores_of(run: SavedRun) -> Scores | None:
    """Return the scores of a run, None if no file holds any."""
    values = worth_showing(run.scores)
    if not values or run.scores_file is None:
        return None
    return Scores(values, run.scores_file, run.samples)


def dense_of(run: SavedRun, dense: str | Path | None) -> Dense | None:
    """Return the dense model to compare the model of a run with, None if there is none.

    `dense` is the directory of a run, or a results file as `Trainer.save_metrics` writes it; by default the
    teacher, if its directory is on this machine. Raises `ValueError` for anything else, for a model that is
    not dense, for scores of an earlier model in the same place, and for scores on other data or on another
    number of examples. A teacher that nobody named is left out in these cases.
    """
    teacher = origin_of(run, "teacher")
    if dense is None:
        return None if teacher is None else _compared_with_teacher(run, teacher)
    if not isinstance(dense, str | Path) or not Path(dense).exists():
        raise ValueError(
            f"{dense} is neither a directory nor a file, and numbers are only read from files; name the "
            f"directory of the dense model, or its {EVALUATION}"
        )
    path = Path(dense)
    own = scores_of(run)
    if own is None:
        raise ValueError(
            f"{run.directory} lacks scores to compare with those of {path}; evaluate the model, and save "
            'its scores: trainer.save_metrics("eval", metrics)'
        )
    if path.is_dir() and (path / CONFIG_NAME).is_file():
        found = _dense(read_run(path), teacher)
        _require_same_data(run, read_run(path))
    else:
        found = _dense_from_file(path / EVALUATION if path.is_dir() else path)
    if not found.is_dense:
        raise ValueError(
            f"{path} is not dense, {found.zeros:.1%} of its weights are zeros; name another model"
        )
    if not found.scores.values.keys() & own.values.keys():
        raise ValueError(
            f"{path} was not scored by any of {', '.join(own.values)}, as this model was; "
            "evaluate both in the same way"
        )
    _require_same_samples(run, found)
    return found


def _compared_with_teacher(run: SavedRun, teacher: SavedRun) -> Dense | None:
    student, other = scores_of(run), scores_of(teacher)
    if student is None or other is None or not student.values.keys() & other.values.keys():
        return None
    if _differing(run, teacher) is not None or None in (student.samples, other.samples):
        return None
    try:
        found = _dense(teacher, teacher)
        _require_same_samples(run, found)
    except (ValueError, OSError) as error:
        logger.warning("The card does not compare the model with its teacher: %s", error)
        return None
    return found


def _dense(run: SavedRun, teacher: SavedRun | None) -> Dense:
    scores = scores_of(run)
    if scores is None:
        raise ValueError(
            f"{run.directory} lacks scores to compare with; evaluate that model, or name its {EVALUATION}"
        )
    model = load_to_measure(run.directory)
    if (reason := why_not_its_scores(run, model)) is not None:
        raise ValueError(reason)
    is_teacher = teacher is not None and teacher.directory.resolve() == run.directory.resolve()
    return Dense(run.name, is_teacher, scores, measure_sparsity(model).overall)


def _dense_from_file(path: Path) -> Dense:
    if path.is_file() and path.name == EVALUATION and is_outdated(path, read_record(path.parent)):
        raise ValueError(
            f"{path} is older than the end of the training, so it is of an earlier model; evaluate it again"
        )
    try:
        found = read_measured(path)
        scores, samples = scores_in(found)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} holds no results ({error}); name what trainer.save_metrics wrote: {EVALUATION}"
        ) from error
    values = worth_showing(scores)
    if not values:
        raise ValueError(f"{path} holds no scores; name what trainer.save_metrics wrote: {EVALUATION}")
    zeros = found.get("sparsity")
    return Dense(path.resolve().parent.name, False, Scores(values, path.name, samples), zeros)


def _require_same_samples(run: SavedRun, dense: Dense) -> None:
    if run.samples is None or run.samples != dense.scores.samples:
        own, other = (
            "an unknown number of" if count is None else f"{count:,}"
            for count in (run.samples, dense.scores.samples)
        )
        raise ValueError(
            f"{dense.name} was scored on {other} examples and this model on {own}, so their scores do not "
            f"compare; evaluate both on the same ones, with eval_samples in {EVALUATION}"
        )


def _require_same_data(run: SavedRun, dense: SavedRun) -> None:
    if (name := _differing(run, dense)) is not None:
        own, other = _data(run)[name], _data(dense)[name]
        raise ValueError(
            f"{dense.directory} was scored with {name} {other!r} and this model with {own!r}, so their "
            "scores do not compare; name a model of the same task"
        )


def _differing(run: SavedRun, other: SavedRun) -> str | None:
    """Return the first fact on which the data of two runs differ; a missing fact differs from nothing."""
    first, second = _data(run), _data(other)
    return next(
        (name for name in _TASK if name in first and first[name] != second.get(name, first[name])), None
    )


def _data(run: SavedRun) -> dict[str, str]:
    return (run.record or {}).get("facts") or {}
