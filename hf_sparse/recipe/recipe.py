"""A recipe: what to do to a model while it trains, as one checked value."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hf_sparse.fields import Part
from hf_sparse.readers import explain, parse_assignment, read_yaml_file
from hf_sparse.recipe.distillation import DistillationRecipe
from hf_sparse.recipe.quantization import QuantizationRecipe
from hf_sparse.recipe.saved import RECIPE_FILE, find_recipe, push_file, write_recipe
from hf_sparse.recipe.sparsity import SparsityRecipe


class Recipe(Part):
    """Everything that hf_sparse does in one training run; `Recipe()` does nothing.

    A recipe is immutable; `override` and `replace` return changed copies.

    Args:
        sparsity: Which weights are removed, when, in which pattern and by which score. None removes none and
            locks no zeros.
        distillation: The terms of the loss that compare the model with a teacher, and their weights. None
            trains on the task alone.
        quantization: The schemes that weights, inputs of layers and embeddings are rounded by. None rounds
            nothing.

    Raises:
        ValueError: A value is wrong; the messages of `from_dict` and `from_yaml` are easier to read.
    """

    sparsity: SparsityRecipe | None = None
    distillation: DistillationRecipe | None = None
    quantization: QuantizationRecipe | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that a nested mapping describes.

        Args:
            values: Settings by key, as in a recipe's YAML; what is missing takes its default.

        Returns:
            The checked recipe.

        Raises:
            ValueError: There are unknown keys or wrong values; the message names all of them.
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                f"a recipe is a mapping of {', '.join(cls.model_fields)}, got {type(values).__name__}"
            )
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ValueError(explain(error, cls)) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Recipe":
        """Return the recipe in a YAML file.

        Args:
            path: The file, in UTF-8.

        Returns:
            The checked recipe.

        Raises:
            OSError: The file cannot be read.
            ValueError: It holds no recipe; the message names the file and everything wrong in it.
        """
        values = read_yaml_file(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def preset(cls, name: str) -> "Recipe":
        """Return a recipe that comes with the package, such as `prune_ofa_90`.

        Args:
            name: Name of the preset, one of `preset_names()`.

        Returns:
            The recipe of the preset, unchanged.

        Raises:
            ValueError: The preset does not exist; the message lists those that do.
        """
        if name not in preset_names():
            raise ValueError(
                f"no preset is called {name!r}; choose one of {', '.join(preset_names())}, or give a YAML "
                "file"
            )
        return cls.from_yaml(_PRESETS / f"{name}.yaml")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "Recipe":
        """Return the recipe in a directory or a repository of the Hub, or the one a model was trained by.

        Read from `recipe.yaml`, which `save_pretrained` and `push` write, else from the files that training
        leaves beside every model: the sidecar `hf_sparse_state.safetensors`, then `hf_sparse_run.json`.

        Args:
            pretrained_name_or_path: Directory, or name of a repository on the Hub.
            subfolder: Folder with the files within either, such as `checkpoint-500`.
            revision: Branch, tag or commit on the Hub.
            token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.
            cache_dir: Where downloads are kept, by default the cache of the Hub.
            local_files_only: Download nothing, read what an earlier call downloaded.

        Returns:
            The checked recipe.

        Raises:
            OSError: If nothing there holds a recipe, or if the Hub or the repository cannot be reached.
            ValueError: If the file that holds it is damaged, or if the name is not one of the Hub.
        """
        path, values = find_recipe(
            str(pretrained_name_or_path), subfolder, revision, token, cache_dir, local_files_only
        )
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
    ) -> Path:
        """Write the recipe into a directory as `recipe.yaml`, for `from_pretrained`, and push it if asked to.

        Args:
            save_directory: Directory, made if it does not exist.
            push_to_hub: Also commit the file to a model repository on the Hub, which is made if it does not
                exist. Other files there stay.
            repo_id: Name of that repository, by default the name of the directory.
            commit_message: Title of the commit.
            private: Make a new repository private.
            token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.
            revision: Branch to commit to, made if it does not exist. By default `main`.

        Returns:
            The path of the file.

        Raises:
            ValueError: If `repo_id` is not a name for the Hub.
            OSError: If the file cannot be written, or if the Hub refuses it.
        """
        path = write_recipe(Path(save_directory), self.to_yaml())
        if push_to_hub:
            name = repo_id or path.parent.resolve().name
            push_file(path, name, commit_message or f"Add {RECIPE_FILE}", private, token, revision)
        return path

    def override(self, assignments: Iterable[str]) -> "Recipe":
        """Return a copy with assignments applied.

        Args:
            assignments: Dotted keys with YAML values, such as `sparsity.schedule.final=0.8` or
                `distillation=null`.

        Returns:
            The changed recipe, checked; this one stays as it is.

        Raises:
            ValueError: One is not an assignment, or the result is not a recipe.
        """
        made = (parse_assignment(assignment) for assignment in assignments)
        return self.replace({".".join(path): value for path, value in made})

    def replace(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a copy with other values.

        Args:
            changes: New values by dotted key, such as `{"sparsity.schedule.final": 0.8}`.

        Returns:
            The changed recipe, checked; this one stays as it is.

        Raises:
            ValueError: A key leads through a value, or the result is not a recipe.
        """
        values = self.to_dict()
        for key, value in changes.items():
            *path, last = key.split(".")
            part = values
            for step in path:
                part[step] = part.get(step) or {}
                part = part[step]
                if not isinstance(part, dict):
                    raise ValueError(f"'{key}={value}': {step} is a value, not a group of settings")
            # Hyperparameter searches give numpy scalars.
            part[last] = value.item() if hasattr(value, "item") else value
        return type(self).from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, ready for `from_dict`."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def to_yaml(self) -> str:
        """Return the settings that differ from the defaults as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def digest(self) -> str:
        """Return the SHA-256 of all settings, defaults included, in hexadecimal."""
        values = self.model_dump(mode="json")
        if self.sparsity is not None:
            values["sparsity"] = dict.fromkeys(self.sparsity.further_keys()) | values["sparsity"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


_PRESETS = Path(str(files("hf_sparse.recipe") / "presets"))


def preset_names() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _PRESETS.iterdir() if entry.name.endswith(".yaml")
    )
