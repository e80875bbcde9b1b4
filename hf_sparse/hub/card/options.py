"""What the author of a model says on its card, and the old keywords for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from hf_sparse.renamed import warn_renamed

_P = ParamSpec("_P")
_R = TypeVar("_R")
Outdated = Literal["refuse", "leave out"]


@dataclass(frozen=True)
class CardOptions:
    """What the author of a model decides about its card; everything else on it is measured.

    Args:
        license: License identifier as the Hub writes it, such as `apache-2.0`. Without one the card refers to
            the license of the base model.
        language: Language code or codes, such as `en`. By default `facts["language"]` of the run.
        base_model: Name on the Hub of the model that this one was made from. By default the run's record
            names it; a local path is left out with a warning.
        dense: Directory of a run, or results file of `Trainer.save_metrics`, with the dense model to compare
            with. By default the teacher, if its directory is on this machine and its scores are comparable.
        outdated: What to do with scores and latencies older than the training: `"refuse"` raises
            `ValueError`, `"leave out"` leaves them out of the card with a warning.
    """

    license: str | None = None
    language: str | Sequence[str] | None = None
    base_model: str | None = None
    dense: str | Path | None = None
    outdated: Outdated = "refuse"


def card_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function accept the fields of `CardOptions` as keywords of its own, as in earlier releases.

    Each use gives a `FutureWarning`. `licence` is accepted as the old name of `license`.
    """
    new_names = {field.name: field.name for field in fields(CardOptions)} | {"licence": "license"}

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        found: dict[str, Any] = {}
        for old in [name for name in new_names if name in kwargs]:
            new = new_names[old]
            warn_renamed(f"{function.__name__}({old}=...)", f"card=CardOptions({new}=...)")
            found[new] = kwargs.pop(old)
        if found:
            if kwargs.get("card") is not None:
                raise TypeError(
                    f"{function.__name__}() got card and {', '.join(found)} beside it; write all of them in "
                    "CardOptions"
                )
            kwargs["card"] = CardOptions(**found)
        return function(*args, **kwargs)

    return call
