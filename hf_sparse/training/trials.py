"""Searches for hyper-parameters: what a trial says of the recipe holds for its run."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers.trainer_utils import BestRun

from hf_sparse.recipe import Recipe

Space = Callable[[Any], dict[str, Any]]


class TrialsMixin:
    """Lets trials of `hyperparameter_search` set keys of the recipe, such as `sparsity.schedule.final`.

    `given_recipe` is what the Trainer was made with, from which every run starts.
    """

    given_recipe: Recipe | None = None
    _in_force: Recipe | None = None
    _space: Space | None = None

    def hyperparameter_search(
        self, hp_space: Space | None = None, *args: Any, **kwargs: Any
    ) -> BestRun | list[BestRun]:
        """Search as `Trainer` does; in what `hp_space` returns, keys of the recipe are dotted.

        Each trial trains a new model under the recipe with its values. A value that the recipe cannot take
        ends the search with a `ValueError` before that trial's first step. Afterwards the recipe is the one
        the Trainer was made with, unless the backend leaves it the model of the last trial. The values of the
        best run hold for the next one where they are set on `args`, dotted ones too, as is usual:
        `for name, value in best.hyperparameters.items(): setattr(trainer.args, name, value)`.
        """
        self._space = hp_space
        try:
            return super().hyperparameter_search(hp_space and self._without_recipe, *args, **kwargs)
        finally:
            self._space = None
            if self.model is None:
                # What was prepared for the last trial is prepared anew for another run.
                self.recipe, self._in_force = self.given_recipe, None

    def _without_recipe(self, trial: Any) -> dict[str, Any]:
        """Return what is for Trainer, which knows training arguments alone; for a whole sweep, all of it."""
        found = self._space(trial)
        return found if trial is None else {key: found[key] for key in found if not _is_of_recipe(key)}

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make the model of a run, quantized before an optimizer sees it, under the recipe of its trial."""
        model = super().call_model_init(trial)
        # Trainer makes its first model in its own __init__, before there is a recipe.
        if self.given_recipe is None:
            return model
        recipe = self._recipe_of(trial)
        if recipe != self._in_force:
            # Trainer sets it as soon as it is returned.
            self.model = model
            self.take_up(recipe)
        elif self.quantizer is not None:
            self.quantizer.attach(model)
        return model

    def _recipe_of(self, trial: Any) -> Recipe:
        found = trial if isinstance(trial, Mapping) else self._space(trial) if trial and self._space else {}
        # No field has a dot in its name: what has was set from the best run, as its training arguments were.
        chosen = {key: value for key, value in vars(self.args).items() if "." in key}
        values = {key: value for key, value in {**chosen, **found}.items() if _is_of_recipe(key)}
        try:
            return self.given_recipe.replace(values)
        except ValueError as error:
            raise ValueError(
                f"the recipe cannot take what a trial sets ({_said(values)}): {error}; change hp_space"
            ) from error


def _is_of_recipe(key: str) -> bool:
    return key.partition(".")[0] in Recipe.model_fields


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
