"""The recipe of a run among the settings that trackers of experiments keep."""

from collections.abc import Iterable

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from hf_sparse.recipe import Recipe, preset_names

KEY = "hf_sparse"


def report_recipe(callbacks: Iterable[TrainerCallback], given: Recipe, recipe: Recipe) -> None:
    """Add a recipe to the configurations that W&B and trackio keep, and to the texts of TensorBoard.

    There `hf_sparse` has its settings, defaults included, and under `recipe` the name of the preset that was
    `given`, else `custom`. `callbacks` are those of a Trainer that have heard that training begins. A recipe
    that does nothing is not shown.
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
    """Return the name of the preset that a recipe is, None if it is none."""
    return next((name for name in preset_names() if Recipe.preset(name) == recipe), None)
