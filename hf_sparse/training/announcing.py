"""What a run is about to do, in lines of the level INFO that are seen where those of transformers are."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from hf_sparse.training.distiller import Distiller
    from hf_sparse.training.quantizer import Quantizer
    from hf_sparse.training.sparsifier import Sparsifier

logger = logging.getLogger(__name__)

_OURS, _THEIRS = logging.getLogger("hf_sparse"), logging.getLogger("transformers")


class _AsTransformers(logging.Handler):
    """Shows a record as transformers shows its own, unless the script has set up logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        # Then the record gets there by itself.
        inherited = _OURS.propagate and _OURS.parent.hasHandlers()
        if inherited or any(handler is not self for handler in _OURS.handlers):
            return
        for handler in _THEIRS.handlers or [logging.lastResort]:
            if record.levelno >= handler.level:
                handler.handle(record)


_handler = _AsTransformers()
_level = logging.NOTSET


def follow_transformers() -> None:
    """Show INFO lines of hf_sparse where the verbosity of transformers is at least that, as Trainer sets it.

    A level that somebody gave the logger `hf_sparse` stays, and warnings are never hidden.
    """
    global _level
    if _handler not in _OURS.handlers:
        _OURS.addHandler(_handler)
    if _OURS.level not in (logging.NOTSET, _level):
        return
    _OURS.setLevel(logging.NOTSET)
    _level = min(transformers_logging.get_verbosity(), _OURS.getEffectiveLevel())
    _OURS.setLevel(_level)


def announce(
    sparsifier: "Sparsifier | None",
    quantizer: "Quantizer | None" = None,
    distiller: "Distiller | None" = None,
) -> None:
    """Log which weights a run prunes and quantizes, and from what it learns, as far as it does."""
    follow_transformers()
    for line in (*_pruned(sparsifier), *_rounded(quantizer)):
        logger.info(line)
    if distiller is not None:
        logger.info("Learning from a teacher, %s", type(distiller.teacher).__name__)


def _pruned(sparsifier: "Sparsifier | None") -> Iterator[str]:
    if sparsifier is None:
        return
    recipe, targets = sparsifier.recipe, sparsifier.masks.targets
    if sparsifier.schedule is None:
        what = f"Locking {sparsifier.masks.sparsity:.1%} zeros"
    else:
        what = f"Pruning to {sparsifier.schedule.final:.1%} by {recipe.method}, {recipe.pattern}"
    names, entries = targets.names, sum(rows * columns for rows, columns in targets.shapes.values())
    yield f"{what}, in {len(names)} weights of {entries:,} entries, {names[0]} to {names[-1]}"
    for reason, count in Counter(entry.reason for entry in targets.left_out).items():
        yield f"Left out of that: {count} Linears, {reason}"


def _rounded(quantizer: "Quantizer | None") -> Iterator[str]:
    if quantizer is not None:
        recipe, count = quantizer.recipe, len(quantizer.layers)
        yield f"Rounding {count} layers: weights {recipe.weights}, inputs {recipe.activations}"
