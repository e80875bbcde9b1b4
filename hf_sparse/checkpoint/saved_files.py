"""The files of a saved model: weights in any form, configuration, modules of sentence-transformers."""

import logging
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.hub import cached_file

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.checkpoint.configuration import read_config, saved_quantization
from hf_sparse.checkpoint.packed.packed_file import METHOD, PACKED
from hf_sparse.readers import parse_json, shortened

logger = logging.getLogger(__name__)

# Lists the modules of a model of sentence-transformers, and their folders.
MODULES = "modules.json"


def saved_file(name_or_path: str, file: str, **hub: Any) -> Path | None:
    """Return the path of a file of a saved model, None if it is missing; fetch it if it is on the Hub.

    `hub` is what `from_pretrained` takes to find a model, such as `revision`, `cache_dir` and `subfolder`.
    """
    recover_directory(Path(name_or_path))
    if Path(name_or_path).is_dir():
        path = Path(name_or_path) / hub.get("subfolder", "") / file
        return path if path.is_file() else None
    try:
        found = cached_file(name_or_path, file, **hub)
    except OSError as error:
        cause = error.__cause__
        # LocalEntryNotFoundError is a subclass, raised when the Hub could not be reached.
        if not isinstance(cause, EntryNotFoundError) or isinstance(cause, LocalEntryNotFoundError):
            logger.warning(
                "%s could not be looked for in %s (%s); taken not to exist.", file, name_or_path, error
            )
        return None
    return None if found is None else Path(found)


def weight_files(name_or_path: str, **hub: Any) -> list[Path]:
    """Return the files that transformers or `load_packed` would load the weights of a model from.

    `hub` as in `saved_file`. Raises `FileNotFoundError` without such files.
    """
    if (packed := packed_file(name_or_path, **hub)) is not None:
        return [packed]
    for single, index in (
        (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME),
    ):
        if (file := saved_file(name_or_path, single, **hub)) is not None:
            return [file]
        if (file := saved_file(name_or_path, index, **hub)) is not None:
            return [_shard(name_or_path, shard, **hub) for shard in shards_of(file)]
    raise FileNotFoundError(f"{name_or_path} holds no weights in a form that can be loaded")


def shards_of(index: Path) -> list[str]:
    """Return the names of the files that an index of weights refers to, sorted; they lie beside it.

    Raises `ValueError` for an index that refers to nothing, or to a file elsewhere.
    """
    held = read_config(index).get("weight_map")
    shards = list(held.values()) if isinstance(held, dict) else []
    if not shards:
        raise ValueError(
            f"{index} does not say which files hold the weights; restore it, or save the model again"
        )
    for shard in shards:
        if not isinstance(shard, str) or not _is_file_name(shard):
            raise ValueError(
                f"{index} names {shortened(shard)}, which is not a file beside it; restore it, or save the "
                "model again"
            )
    return sorted(set(shards))


def _is_file_name(name: str) -> bool:
    """Return whether a text is the name of a file, and no path, on every operating system."""
    return {PurePosixPath(name).name, PureWindowsPath(name).name} == {name} and name not in ("", "..")


def _shard(name_or_path: str, shard: str, **hub: Any) -> Path:
    """Return the path of a shard; raise `OSError` if it cannot be fetched."""
    found = cached_file(name_or_path, shard, **hub)
    if found is None:
        raise FileNotFoundError(f"{name_or_path} lacks {shard}, which its index names; fetch it again")
    return Path(found)


def packed_file(name_or_path: str, **hub: Any) -> Path | None:
    """Return the packed file of a model whose configuration says that it is packed, None for other models.

    The other files that `load_packed` reads are fetched, too. Saving other weights beside a packed file also
    replaces the configuration, so the file is then ignored. `hub` as in `saved_file`.
    """
    config = saved_file(name_or_path, CONFIG_NAME, **hub)
    if config is None:
        return None
    if (saved_quantization(config) or {}).get("quant_method") != METHOD:
        return None
    saved_file(name_or_path, GENERATION_CONFIG_NAME, **hub)
    return saved_file(name_or_path, PACKED, **hub)


def weight_bytes(name_or_path: str) -> int:
    """Return the bytes of all files of weights together."""
    return sum(file.stat().st_size for file in weight_files(name_or_path))


def module_folders(name_or_path: str, **hub: Any) -> list[str]:
    """Return the folders of modules of a model of sentence-transformers, an empty list for other models.

    A module in the directory itself is left out. `hub` as in `saved_file`. Raises `ValueError` for a folder
    outside of the directory, and if the list is damaged.
    """
    file = saved_file(name_or_path, MODULES, **hub)
    if file is None:
        return []
    try:
        paths = [module["path"] for module in parse_json(file.read_bytes())]
        folders = [PurePosixPath(path).as_posix() for path in paths if path]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} is not a list of modules ({error!r}); restore it, or save the model again"
        ) from error
    for folder in folders:
        if folder.startswith("/") or ".." in PurePosixPath(folder).parts:
            raise ValueError(f"{file} names {folder}, outside of the directory; save the model again")
    return folders
