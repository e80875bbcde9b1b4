"""Recipes in files: in a directory, in a repository of the Hub, beside the model that they trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_sparse.atomic.files import write_atomically
from hf_sparse.readers import parse_json, read_json, read_yaml_file

RECIPE_FILE = "recipe.yaml"
# From this format of the sidecar on, errors of hidden states are normalized unless the recipe says otherwise.
NORMALIZED = 3
_RESTORE = "restore it, or save the model again"


def find_recipe(
    name: str,
    subfolder: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> tuple[Path, Any]:
    """Return the file that holds the recipe of a directory or repository, and the values in it.

    Arguments and errors as in `Recipe.from_pretrained`.
    """
    if Path(name).is_file():
        raise ValueError(f"{name} is a file; read it with Recipe.from_yaml, or give its directory")
    unreachable: OSError | None = None
    for file, read in _HOLDERS.items():
        try:
            found = _find(name, file, subfolder, revision, token, cache_dir, local_files_only)
        except ConnectionError as error:
            # A file that comes later may have been downloaded before.
            unreachable = error
            continue
        if found is not None:
            return found, read(found)
    if unreachable is not None:
        raise unreachable
    place = f"{name}/{subfolder}" if subfolder else name
    raise FileNotFoundError(
        f"{place} holds no recipe, none of {', '.join(_HOLDERS)}; name a model that hf_sparse trained, or "
        "what Recipe.save_pretrained wrote; for a preset write Recipe.preset"
    )


def write_recipe(directory: Path, text: str) -> Path:
    """Write the YAML of a recipe into a directory and return the path of the file."""
    path = directory / RECIPE_FILE
    write_atomically(path, text.encode())
    return path


def push_file(
    path: Path,
    repo_id: str,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
) -> None:
    """Commit one file to a model repository; arguments and errors as in `Recipe.save_pretrained`."""
    from huggingface_hub import HfApi, constants

    api = HfApi(token=token, library_name="hf_sparse")
    with _hub_errors(repo_id):
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and revision != constants.DEFAULT_REVISION:
            api.create_branch(name, branch=revision, exist_ok=True)
        api.upload_file(
            path_or_fileobj=path,
            path_in_repo=path.name,
            repo_id=name,
            revision=revision,
            commit_message=commit_message,
        )


def as_of_format(values: Any, version: int) -> Any:
    """Return the values of a recipe with the defaults that held in an older format of the sidecar."""
    distillation = values.get("distillation") if isinstance(values, dict) else None
    hidden = distillation.get("hidden") if isinstance(distillation, dict) else None
    if version < NORMALIZED and isinstance(hidden, dict):
        hidden.setdefault("normalize", False)
    return values


def _in_sidecar(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        return as_of_format(parse_json(metadata["recipe"], own=True), int(metadata["format_version"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {_RESTORE}") from error


def _in_record(path: Path) -> Any:
    return read_json(path, "record of a run", _RESTORE, own=True).get("recipe")


# Files that may hold a recipe, with how each is read. The sidecar comes before the record, since its version
# says which defaults held when it was written.
_HOLDERS: dict[str, Callable[[Path], Any]] = {
    RECIPE_FILE: read_yaml_file,
    "hf_sparse_state.safetensors": _in_sidecar,
    "hf_sparse_run.json": _in_record,
}


def _find(
    name: str,
    file: str,
    subfolder: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path | None:
    """Return the path of a file in a directory or repository, downloaded if need be, None if it has none."""
    if Path(name).is_dir():
        path = Path(name) / subfolder / file
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _hub_errors(name):
        try:
            found = hf_hub_download(
                name,
                file,
                subfolder=subfolder or None,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                library_name="hf_sparse",
            )
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            return None
    return Path(found)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Raise errors of huggingface_hub again as errors that say what to do."""
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"{name!r} is neither a directory nor a name on the Hub; write OWNER/NAME, or the path of a "
            "directory"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"the Hub cannot be asked for {name}, and it was not downloaded before; check the connection, "
            "HF_HUB_OFFLINE and local_files_only"
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(f"{name} on the Hub lacks that revision; name a branch, a tag or a commit") from error
    except HTTPError as error:
        raise OSError(
            f"the Hub refuses {name} ({str(error).splitlines()[0]}); check the name, and the token that "
            "`hf auth login` or HF_TOKEN sets"
        ) from error
