"""The card of a model that is published: what was measured of it, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from hf_sparse.atomic.files import write_atomically
from hf_sparse.checkpoint.loading import require_known_class
from hf_sparse.hub.cards.collecting import architecture_of, collect
from hf_sparse.hub.cards.facts import Facts
from hf_sparse.hub.cards.freshness import Outdated, only_current
from hf_sparse.hub.cards.pictures import draw_pictures
from hf_sparse.hub.cards.rendering import render
from hf_sparse.hub.cards.weights import load_to_measure, targets_of
from hf_sparse.runs.run import read_run
from hf_sparse.sparsity.inspection import inspect_weights

CARD, PICTURES = "README.md", "pictures"


def write_card(
    directory: str | Path,
    staged: str | Path,
    repo: str,
    *,
    model: PreTrainedModel | None = None,
    revision: str | None = None,
    outdated: Outdated = "refuse",
    dense: str | Path | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Path:
    """Write README.md and its pictures into a directory that is about to be published; return its path.

    `directory` is the output directory of the run, with the files that say what was measured; `staged` has
    the model files, in `packed/` perhaps the packed one; both may be the same. `repo` is the name on the Hub.
    `dense` is the directory or the results file of the model to compare with, by default of the teacher, if
    it lies on this machine; such a teacher is left out if its scores cannot be compared. `base_model` counts
    if it is no directory here. `model` is the one that was trained, if transformers does not have its class;
    any other is loaded. `revision` is the branch or tag that is pushed to. What was measured before the model
    was trained is refused or, with `outdated="leave out"`, left out with a warning. An earlier README.md is
    replaced.

    Raises `ValueError` for results that are not of this model or were measured otherwise than those of the
    dense one, for files that are damaged, and for a directory without a model.
    """
    facts = describe(
        directory,
        staged,
        repo,
        model=model,
        revision=revision,
        outdated=outdated,
        dense=dense,
        base_model=base_model,
        licence=licence,
        language=language,
    )
    path = Path(staged) / CARD
    write_atomically(path, str(render(facts)).encode())
    return path


def describe(
    directory: str | Path,
    staged: str | Path,
    repo: str,
    *,
    model: PreTrainedModel | None = None,
    revision: str | None = None,
    outdated: Outdated = "refuse",
    dense: str | Path | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Facts:
    """Return all facts that the card is made of, and draw its pictures; as `write_card`, without the card."""
    run, staged, loaded = read_run(directory), Path(staged), model is None
    if loaded:
        require_known_class(str(directory))
        model = load_to_measure(directory)
    run = only_current(run, model, architecture_of(model, loaded), outdated)
    facts = collect(
        run,
        model,
        staged,
        repo,
        loaded=loaded,
        revision=revision,
        dense=dense,
        base_model=base_model,
        licence=licence,
        language=language,
    )
    weights = inspect_weights(targets_of(run, model))
    return replace(facts, pictures=draw_pictures(staged / PICTURES, run, weights, facts.name))
