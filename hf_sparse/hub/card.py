"""The card of a model that is published: what was measured of it, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hf_sparse.hub.cards.collecting import collect
from hf_sparse.hub.cards.facts import Facts
from hf_sparse.hub.cards.pictures import draw_pictures
from hf_sparse.hub.cards.rendering import render
from hf_sparse.hub.cards.weights import load_to_measure, targets_of
from hf_sparse.report.run import read_run
from hf_sparse.sparsity.inspection import inspect_weights
from hf_sparse.storage import write_atomically

_CARD, _PICTURES = "README.md", "pictures"


def write_card(
    directory: str | Path,
    staged: str | Path,
    repo: str,
    *,
    dense: str | Path | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Path:
    """Write README.md and its pictures into a directory that is about to be published; return its path.

    `directory` is the output directory of the run, with the files that say what was measured; `staged` has
    the model files, in `packed/` perhaps the packed one; both may be the same. `repo` is the name on the Hub.
    `dense` is the directory or the results file of the model to compare with, by default of the teacher, if
    it lies on this machine. An earlier README.md is replaced.

    Raises `ValueError` for results that are not of this model or were measured otherwise than those of the
    dense one, for files that are damaged, and for a directory without a model.
    """
    facts = describe(
        directory, staged, repo, dense=dense, base_model=base_model, licence=licence, language=language
    )
    path = Path(staged) / _CARD
    write_atomically(path, str(render(facts)).encode())
    return path


def describe(
    directory: str | Path,
    staged: str | Path,
    repo: str,
    *,
    dense: str | Path | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> Facts:
    """Return all facts that the card is made of, and draw its pictures; as `write_card`, without the card."""
    run, staged = read_run(directory), Path(staged)
    model = load_to_measure(directory)
    facts = collect(
        run,
        model,
        staged,
        repo,
        dense=dense,
        base_model=base_model,
        licence=licence,
        language=language,
    )
    weights = inspect_weights(targets_of(run, model))
    return replace(facts, pictures=draw_pictures(staged / _PICTURES, run, weights, facts.name))
