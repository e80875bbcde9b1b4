"""Whether a run may go on from a checkpoint."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hf_sparse.recipe import Recipe
from hf_sparse.settings.saved import NORMALIZED
from hf_sparse.training.state import SIDECAR, SavedState, check_weights, read_state

_NEVER = "these never change within a run: resume with the checkpoint's own, or start a new run"
_WAY_OUT = (
    "resume with the recipe and length of the run that wrote the checkpoint, or pass allow_schedule_change"
)


def read_resumable(checkpoint: str | Path, recipe: Recipe, allow_schedule_change: bool) -> SavedState | None:
    """Read the sidecar of a checkpoint; None if the recipe is empty and there is none.

    Raises `ValueError` if the checkpoint was written under another recipe or holds other weights than it was
    saved with, `FileNotFoundError` if it has no sidecar.
    """
    checkpoint = Path(checkpoint)
    if recipe == Recipe() and not (checkpoint / SIDECAR).is_file():
        return None
    saved = read_state(checkpoint)
    recipe = adopt(recipe, saved)
    differences = list(_differences(saved.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")))
    fixed = [difference for difference in differences if difference.startswith(_FIXED)]
    if differences and (fixed or not allow_schedule_change):
        way_out = _NEVER if fixed else _WAY_OUT
        raise ValueError(
            f"{checkpoint} was written under another recipe ({'; '.join(fixed or differences)}); {way_out}"
        )
    check_weights(checkpoint / SIDECAR, saved.weights, partial(_existing, checkpoint))
    return saved


def adopt(recipe: Recipe, saved: SavedState) -> Recipe:
    """Return a recipe in which what it leaves open is as in a run that began under an older default."""
    hidden, before = (each.distillation and each.distillation.hidden for each in (recipe, saved.recipe))
    older = saved.format_version < NORMALIZED
    if not (older and hidden and before) or "normalize" in hidden.model_fields_set:
        return recipe
    hidden = hidden.model_copy(update={"normalize": before.normalize})
    distillation = recipe.distillation.model_copy(update={"hidden": hidden})
    return recipe.model_copy(update={"distillation": distillation})


def check_length(saved: SavedState, total_steps: int, allow_schedule_change: bool) -> None:
    """Raise `ValueError` if the run being resumed has another length, unless that is allowed."""
    if saved.total_steps != total_steps and not allow_schedule_change:
        raise ValueError(
            f"the checkpoint belongs to a run of {saved.total_steps} steps, this run has {total_steps}, "
            f"which would move its schedules, that of the learning rate included; {_WAY_OUT}"
        )


def check_step(saved: SavedState, step: int) -> None:
    """Raise `ValueError` if the masks are of another step than the checkpoint they lie in."""
    if saved.step != step:
        raise ValueError(
            f"the sidecar is that of step {saved.step}, and the checkpoint is one of step {step}; "
            "resume from a checkpoint whose files belong together"
        )


# What gives the masks their meaning.
_FIXED = (
    "sparsity was",
    "sparsity.method",
    "sparsity.pattern",
    "sparsity.include",
    "sparsity.exclude",
    "sparsity.overrides",
    "sparsity.revive",
    "sparsity.group_lasso",
    "sparsity.movement",
    "quantization was",
    "quantization.weights",
    "quantization.activations",
    "quantization.embeddings",
    "quantization.observer",
    "quantization.include",
    "quantization.exclude",
)


def _existing(directory: Path, name: str) -> Path | None:
    return directory / name if (directory / name).is_file() else None


def _differences(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in {**saved, **now}:
            yield from _differences(saved.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif saved != now:
        yield f"{path} was {_short(saved)}, is {_short(now)}"


def _short(value: Any) -> str:
    return "set" if isinstance(value, Mapping) else "unset" if value is None else repr(value)
