"""Which numbers in a run's files are of its model, and which of one that lay there before."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from transformers import PreTrainedModel

from hf_sparse.hub.cards.weights import format_of, targets_of
from hf_sparse.runs.results import EVALUATION, read_measured
from hf_sparse.runs.run import Run, is_outdated
from hf_sparse.sparsity.measure import measure_sparsity

Outdated = Literal["refuse", "leave out"]

logger = logging.getLogger(__name__)

# By how much a share of zeros may differ from what a file says, which may have been rounded.
_TOLERANCE = 1e-4
_OLDER = "is older than the end of the training, so it is of an earlier model"


def only_current(run: Run, model: PreTrainedModel, architecture: str, outdated: Outdated) -> Run:
    """Return a run with the scores and latencies that are of its model.

    For others `outdated` says what is done: `refuse` raises `ValueError`, `leave out` warns.
    """
    if (reason := why_not_its_scores(run, model)) is not None:
        _object(reason, outdated)
        run = replace(run, scores={}, samples=None, scores_file=None)
    timed = []
    for file, found in zip(run.latency_files, run.latencies, strict=True):
        reason = _why_not_its_latency(run, file, found, architecture)
        if reason is None:
            timed.append((file, found))
        else:
            _object(reason, outdated)
    files, latencies = tuple(file for file, _ in timed), tuple(found for _, found in timed)
    return replace(run, latency_files=files, latencies=latencies)


def _object(reason: str, outdated: Outdated) -> None:
    if outdated == "refuse":
        raise ValueError(reason)
    logger.warning("Left out of the card: %s", reason)


def why_not_its_scores(run: Run, model: PreTrainedModel) -> str | None:
    """Return why the scores of a run are not those of its model, None if nothing speaks against it."""
    if run.scores_file is None:
        return None
    file = run.directory / run.scores_file
    if run.scores_file == EVALUATION and is_outdated(file, run.record):
        return f"{file} {_OLDER}; evaluate again, or delete it"
    if (said := _said_sparsity(run)) is None:
        return None
    found = measure_sparsity(model, targets_of(run, model)).overall
    # Weights that are rounded on disk have more zeros than those they were made of.
    rounded = format_of(run.directory) is not None
    if found < said - _TOLERANCE or (found > said + _TOLERANCE and not rounded):
        return (
            f"{file} is of a model with {said:.2%} zeros and this one has {found:.2%}, so its scores are not "
            "this model's; evaluate again, or delete the file"
        )
    return None


def _said_sparsity(run: Run) -> float | None:
    """Return the share of zeros that the file with the scores says the model has."""
    if run.scores_file == EVALUATION:
        return read_measured(run.directory / EVALUATION).get("sparsity")
    return next((line["sparsity"] for line in reversed(run.log) if "sparsity" in line), None)


def _why_not_its_latency(run: Run, name: str, found: Mapping[str, Any], architecture: str) -> str | None:
    file = run.directory / name
    if is_outdated(file, run.record):
        return f"{file} {_OLDER}; measure again, or delete it"
    # Without one it is no file of latencies, which is said where it is read.
    timed = found.get("architecture", architecture)
    if timed != architecture:
        return f"{file} is of a {timed} and the model is a {architecture}; measure again, or delete it"
    return None
