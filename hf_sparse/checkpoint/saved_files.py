"""Which file of a saved model is which."""

import logging
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.checkpoint.configuration import read_config, saved_quantization
from hf_sparse.checkpoint.container import PACKED
from hf_sparse.checkpoint.quantizer import METHOD
from hf_sparse.reading import parse_json

logger = logging.getLogger(__name__)

# Which modules a model of sentence-transformers has, and which folder each lies in.
MODULES = "modules.json"


def saved_file(name_or_path: str, file: str, **hub: Any) -> Path | None:
    """Return where a file of a saved model lies, None if it has none of that name.

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
        # A subclass of the other, raised where the Hub could not be asked.
        if not isinstance(cause, EntryNotFoundError) or isinstance(cause, LocalEntryNotFoundError):
            logger.warning(
                "%s could not be looked for in %s (%s); taken not to exist.", file, name_or_path, error
            )
        return None
    return None if found is None else Path(found)


def weight_files(name_or_path: str, **hub: Any) -> list[Path]:
    """Return the files that the weights of a saved model lie in; the sidecar is none of them.

    `hub` as in `saved_file`. Raises `FileNotFoundError` if there are none that transformers or `load_packed`
    would load.
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
            shards = _shards(file)
            return [Path(cached_file(name_or_path, shard, **hub)) for shard in sorted(shards)]
    raise FileNotFoundError(f"{name_or_path} holds no weights in a form that can be loaded")


def _shards(index: Path) -> set[str]:
    """Return the files that an index names; raise `ValueError` for one that names none."""
    held = read_config(index).get("weight_map")
    shards = list(held.values()) if isinstance(held, dict) else []
    # They lie beside the index, wherever that is.
    if not shards or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
        raise ValueError(f"{index} is no index of shards; restore it, or save the model again")
    return set(shards)


def packed_file(name_or_path: str, **hub: Any) -> Path | None:
    """Return the packed file of a model whose configuration says that it is packed, None for others.

    What `load_packed` reads lies beside it then. A model that was loaded from a packed file and saved beside
    it has newer weights, and a configuration that no longer says so. `hub` as in `saved_file`.
    """
    config = saved_file(name_or_path, CONFIG_NAME, **hub)
    if config is None:
        return None
    if (saved_quantization(config) or {}).get("quant_method") != METHOD:
        return None
    saved_file(name_or_path, GENERATION_CONFIG_NAME, **hub)
    return saved_file(name_or_path, PACKED, **hub)


def weight_bytes(name_or_path: str) -> int:
    """Return the size of those files together."""
    return sum(file.stat().st_size for file in weight_files(name_or_path))


def module_folders(name_or_path: str, **hub: Any) -> list[str]:
    """Return the folders that a model of sentence-transformers keeps its modules in, none for other models.

    A module in the directory itself has none. `hub` as in `saved_file`. Raises `ValueError` for a folder
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
            f"{file} is no list of modules ({error!r}); restore it, or save the model again"
        ) from error
    for folder in folders:
        if folder.startswith("/") or ".." in PurePosixPath(folder).parts:
            raise ValueError(f"{file} names {folder}, outside of the directory; save the model again")
    return folders
