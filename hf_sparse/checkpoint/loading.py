"""Saved models, as the class they were saved as."""

import json
import logging
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from hf_sparse.checkpoint.container import PACKED
from hf_sparse.checkpoint.quantizer import METHOD

logger = logging.getLogger(__name__)

_TOKENIZERS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def load_saved(name_or_path: str, **from_pretrained_kwargs: Any) -> PreTrainedModel:
    """Load a model as the class that its configuration names, without a head where it names none."""
    _require_there(name_or_path)
    named = AutoConfig.from_pretrained(name_or_path).architectures or [""]
    architecture = getattr(transformers, named[0], AutoModel)
    return architecture.from_pretrained(name_or_path, **from_pretrained_kwargs)


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer that was saved with a model, None if there is none."""
    # Without any of them transformers makes up an empty one.
    if all(saved_file(name_or_path, file) is None for file in _TOKENIZERS):
        return None
    return AutoTokenizer.from_pretrained(name_or_path)


def rounded_as(name_or_path: str) -> str | None:
    """Return the format in which the weights of a saved model are rounded, None if they are not."""
    _require_there(name_or_path)
    held = getattr(AutoConfig.from_pretrained(name_or_path), "quantization_config", None)
    return held and held.get("quant_method", "quantized")


def weight_files(name_or_path: str) -> list[Path]:
    """Return the files that the weights of a saved model lie in; the sidecar is none of them.

    Raises `FileNotFoundError` if there are none that transformers or `load_packed` would load.
    """
    if (packed := packed_file(name_or_path)) is not None:
        return [packed]
    for single, index in (
        (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
        (WEIGHTS_NAME, WEIGHTS_INDEX_NAME),
    ):
        if (file := saved_file(name_or_path, single)) is not None:
            return [file]
        if (file := saved_file(name_or_path, index)) is not None:
            shards = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
            return [Path(cached_file(name_or_path, shard)) for shard in sorted(shards)]
    raise FileNotFoundError(f"{name_or_path} holds no weights in a form that can be loaded")


def packed_file(name_or_path: str, **hub: Any) -> Path | None:
    """Return the packed file of a model whose configuration says that it is packed, None for others.

    What `load_packed` reads lies beside it then. A model that was loaded from a packed file and saved beside
    it has newer weights, and a configuration that no longer says so. `hub` as in `saved_file`.
    """
    config = saved_file(name_or_path, CONFIG_NAME, **hub)
    if config is None:
        return None
    held = json.loads(config.read_text(encoding="utf-8")).get("quantization_config") or {}
    if held.get("quant_method") != METHOD:
        return None
    saved_file(name_or_path, GENERATION_CONFIG_NAME, **hub)
    return saved_file(name_or_path, PACKED, **hub)


def require_known_class(name_or_path: str) -> None:
    """Raise `ValueError` if a model was saved as a class that transformers does not have.

    Loading it anyway would lose its head, or more.
    """
    _require_there(name_or_path)
    named = (AutoConfig.from_pretrained(name_or_path).architectures or [None])[0]
    if named is not None and not hasattr(transformers, named):
        raise ValueError(
            f"{name_or_path} is a {named}, which is no class of transformers; load it in Python, and give "
            "the model itself"
        )


def weight_bytes(name_or_path: str) -> int:
    """Return the size of those files together."""
    return sum(file.stat().st_size for file in weight_files(name_or_path))


def saved_file(name_or_path: str, file: str, **hub: Any) -> Path | None:
    """Return where a file of a saved model lies, None if it has none of that name.

    `hub` is what `from_pretrained` takes to find a model, such as `revision`, `cache_dir` and `subfolder`.
    """
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


def _require_there(name_or_path: str) -> None:
    # Hub names have one slash at most and begin with neither of these.
    if name_or_path.startswith(("/", ".", "~")) and not Path(name_or_path).is_dir():
        raise ValueError(
            f"{name_or_path} is no directory; name the one the model was saved in, or a Hub name"
        )
