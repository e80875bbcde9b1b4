"""What a run is about to do: as INFO lines in the log, and as settings in experiment trackers."""

import logging
from collections.abc import Iterable

from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)
from transformers.utils import logging as transformers_logging

from hf_sparse.recipe.recipe import Recipe, preset_names
from hf_sparse.training.parts.part import RunPart

logger = logging.getLogger(__name__)

KEY = "hf_sparse"
_LOGGER, _HOST = logging.getLogger("hf_sparse"), logging.getLogger("transformers")


class _AsTransformers(logging.Handler):
    """Shows a record as transformers shows its own, unless the script has set up logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        # Logging that the script set up gets the record without this handler.
        inherited = _LOGGER.propagate and _LOGGER.parent is not None and _LOGGER.parent.hasHandlers()
        if inherited or any(handler is not self for handler in _LOGGER.handlers):
            return
        last = [] if logging.lastResort is None else [logging.lastResort]
        for handler in _HOST.handlers or last:
            if record.levelno >= handler.level:
                handler.handle(record)


_handler = _AsTransformers()
_level = logging.NOTSET


def follow_transformers() -> None:
    """Show INFO lines of hf_sparse if the verbosity of transformers shows INFO, as Trainer sets it.

    A level that the script gave the logger `hf_sparse` stays, and warnings are always shown.
    """
    global _level
    if _handler not in _LOGGER.handlers:
        _LOGGER.addHandler(_handler)
    if _LOGGER.level not in (logging.NOTSET, _level):
        return
    _LOGGER.setLevel(logging.NOTSET)
    _level = min(transformers_logging.get_verbosity(), _LOGGER.getEffectiveLevel())
    _LOGGER.setLevel(_level)


def announce(parts: Iterable[RunPart]) -> None:
    """Log what each part of a run is about to do."""
    follow_transformers()
    for part in parts:
        for line in part.describe():
            logger.info(line)


def report_recipe(callbacks: Iterable[TrainerCallback], given: Recipe, recipe: Recipe) -> None:
    """Add a recipe to the configurations of W&B and trackio, and to the texts of TensorBoard.

    The key `hf_sparse` holds all settings, defaults included, and under `recipe` the name of the preset that
    was `given`, else `custom`. `callbacks` are those of a Trainer, after their `on_train_begin`. An empty
    recipe is left out.
    """
    if recipe == Recipe():
        return
    settings = {"recipe": preset_of(given) or "custom", **recipe.model_dump(mode="json", exclude_none=True)}
    for callback in callbacks:
        if isinstance(callback, WandbCallback):
            import wandb

            if wandb.run is not None:
                wandb.config.update({KEY: settings}, allow_val_change=True)
        elif isinstance(callback, TrackioCallback):
            import trackio

            trackio.config.update({KEY: settings}, allow_val_change=True)
        elif isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            # As Markdown, where four spaces make a block of code.
            lines = [f"recipe: {settings['recipe']}", *recipe.to_yaml().splitlines()]
            callback.tb_writer.add_text(KEY, "\n".join(f"    {line}" for line in lines))


def preset_of(recipe: Recipe) -> str | None:
    """Return the name of the preset that equals a recipe, None if no preset does."""
    return next((name for name in preset_names() if Recipe.preset(name) == recipe), None)
