"""Hyperparameter searches whose trials may set values of the recipe."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers.trainer_utils import BestRun

from hf_sparse.recipe.recipe import Recipe
from hf_sparse.training.host import Host
from hf_sparse.training.parts.part import RunPart

Space = Callable[[Any], dict[str, Any]]


class TrialsMixin(Host):
    """Lets trials of `hyperparameter_search` set keys of the recipe, such as `sparsity.schedule.final`.

    `given_recipe` is the recipe that the Trainer was made with, from which every run starts.
    """

    recipe: Recipe
    parts: Sequence[RunPart] = ()
    given_recipe: Recipe | None = None
    _in_force: Recipe | None = None
    _space: Space | None = None

    def hyperparameter_search(
        self, hp_space: Space | None = None, *args: Any, **kwargs: Any
    ) -> BestRun | list[BestRun]:
        """Search as `Trainer` does; in what `hp_space` returns, dotted keys set values of the recipe.

        Each trial trains a new model under the recipe with its values. A value that the recipe cannot take
        ends the search with a `ValueError` before that trial's first step. Afterwards the recipe is the one
        the Trainer was made with, unless the backend leaves it the model of the last trial. The next run uses
        the values of the best run if they are set on `args`, dotted ones too, as is usual:
        `for name, value in best.hyperparameters.items(): setattr(trainer.args, name, value)`.
        """
        self._space = hp_space
        try:
            return super().hyperparameter_search(hp_space and self._without_recipe, *args, **kwargs)
        finally:
            self._space = None
            if self.model is None and self.given_recipe is not None:
                # The next run prepares its model under this recipe.
                self.recipe, self._in_force = self.given_recipe, None

    def _without_recipe(self, trial: Any) -> dict[str, Any]:
        """Return the values of a trial that are training arguments; of a whole sweep, all values."""
        found = {} if self._space is None else self._space(trial)
        return found if trial is None else {key: found[key] for key in found if not _is_of_recipe(key)}

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make the model of a run under the recipe of its trial, quantized before an optimizer is made."""
        model = super().call_model_init(trial)
        # Trainer makes its first model in its own __init__, before the recipe is set.
        if self.given_recipe is None:
            return model
        recipe = self._recipe_of(self.given_recipe, trial)
        if recipe != self._in_force:
            # Trainer sets this attribute after this method returns, too late for _make_parts.
            self.model = model
            self._make_parts(recipe)
        else:
            for part in self.parts:
                part.attach(model)
        return model

    def _make_parts(self, recipe: Recipe) -> None:
        """Make the parts of a run under a recipe."""

    def _recipe_of(self, given: Recipe, trial: Any) -> Recipe:
        found = trial if isinstance(trial, Mapping) else self._space(trial) if trial and self._space else {}
        # No training argument has a dot in its name: a dotted one was set from the best run.
        chosen = {key: value for key, value in vars(self.args).items() if "." in key}
        values = {key: value for key, value in {**chosen, **found}.items() if _is_of_recipe(key)}
        try:
            return given.replace(values)
        except ValueError as error:
            raise ValueError(
                f"the recipe cannot take what a trial sets ({_said(values)}): {error}; change hp_space"
            ) from error


def _is_of_recipe(key: str) -> bool:
    return key.partition(".")[0] in Recipe.model_fields


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
