"""Saved models, as the class they were saved as."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    cached_file,
)

from hf_sparse.atomic.directories import recover_directory
from hf_sparse.checkpoint.configuration import (
    described_by,
    method_of,
    read_config,
    require_plausible,
)
from hf_sparse.checkpoint.saved_files import module_folders, saved_file, weight_files
from hf_sparse.distillation.teacher import TOKENIZER_FILES

logger = logging.getLogger(__name__)

# What pretraining leaves behind and many classes do without.
_SPARE = re.compile(r"(^|\.)(pooler|seq_relationship|sop_classifier)\.")


def load_saved(name_or_path: str, **from_pretrained_kwargs: Any) -> PreTrainedModel:
    """Load a model as the class that its configuration names, without a head where it names none.

    Raises `ValueError` naming the file if one is damaged, and where weights of the class are missing, which
    transformers would draw at random; an encoder may lack its pooler.
    """
    return _load(name_or_path, **from_pretrained_kwargs)[0]


def load_whole(name_or_path: str) -> PreTrainedModel:
    """Load a model as the class that its configuration names, every weight of it from its files.

    Raises `ValueError` for a class that transformers does not have, and where weights are missing, which
    transformers would draw at random, are left over, such as the masks of a library of the past, or have
    other shapes. Heads of pretraining and poolers may be left over; an encoder may lack its pooler.
    """
    require_known_class(name_or_path)
    model, found = _load(name_or_path)
    left_over = (name for name in found["unexpected_keys"] if not _SPARE.search(name))
    _refuse(f"{name_or_path} holds {{}}, and there is no such thing in a {type(model).__name__}", left_over)
    return model


def _load(name_or_path: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model as `load_saved` does, and return what transformers says of it too."""
    kind = getattr(transformers, named_class(name_or_path) or "", AutoModel)
    options |= {"output_loading_info": True}
    try:
        with described_by(f"{name_or_path}/{CONFIG_NAME}"), _in_shape(kind, name_or_path, options):
            model, found = kind.from_pretrained(name_or_path, **options)
            if found["missing_keys"] and all(name.startswith("pooler.") for name in found["missing_keys"]):
                # An encoder that was saved without the pooler which its class makes by default.
                model, found = kind.from_pretrained(name_or_path, add_pooling_layer=False, **options)
    except SafetensorError as error:
        raise ValueError(
            f"{_damaged(name_or_path)} is no whole file of tensors ({error}); fetch it again, or save the "
            "model again"
        ) from error
    made = type(model).__name__
    _refuse(f"{name_or_path} lacks {{}} of a {made}, which would be random", found["missing_keys"])
    return model, found


@contextmanager
def _in_shape(kind: Any, name_or_path: str, options: dict[str, Any]) -> Iterator[None]:
    """Name weights of other shapes than the configuration asks for, where transformers refuses them."""
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        # On meta, since what the configuration asks for may be of any size.
        model, found = kind.from_pretrained(
            name_or_path, ignore_mismatched_sizes=True, device_map="meta", **options
        )
        reshaped = (name for name, *_ in found["mismatched_keys"])
        _refuse(f"{name_or_path} holds {{}} in another shape than in a {type(model).__name__}", reshaped)
        raise


def _refuse(sentence: str, names: Iterable[str]) -> None:
    if found := sorted(names):
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ValueError(
            f"{sentence.format(found[0] + more)}; if an old library left it, open it with hf-sparse rescue, "
            "else load it in Python as what it is and save it again"
        )


def load_tokenizer(name_or_path: str, **hub: Any) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer that was saved with a model, None if there is none; `hub` as in `saved_file`."""
    # Without any of them transformers makes up an empty one.
    if all(saved_file(name_or_path, file, **hub) is None for file in TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(name_or_path, **hub)


def rounded_as(name_or_path: str) -> str | None:
    """Return the format in which the weights of a saved model are rounded, None if they are not."""
    held = getattr(_configuration(name_or_path), "quantization_config", None)
    return method_of(held) if held else None


def named_class(name_or_path: str) -> str | None:
    """Return the class that a model was saved as, None if its configuration does not say."""
    return (_configuration(name_or_path).architectures or [None])[0]


def require_known_class(name_or_path: str) -> None:
    """Raise `ValueError` if a model was saved as a class that transformers does not have.

    Loading it anyway would lose its head, or more.
    """
    named = named_class(name_or_path)
    if named is not None and not hasattr(transformers, named):
        raise ValueError(
            f"{name_or_path} is a {named}, which is no class of transformers; load it in Python, and give "
            "the model itself"
        )


def _no_model(name_or_path: str) -> str:
    """Say why a directory without a configuration holds no model to load."""
    for folder in module_folders(name_or_path):
        file = Path(name_or_path) / folder / CONFIG_NAME
        if file.is_file() and "model_type" in read_config(file):
            return (
                f"{name_or_path} is a model of sentence-transformers whose transformer lies in {folder}; "
                f"name {Path(name_or_path) / folder}, and put what is made of it in its place in a copy"
            )
    if (Path(name_or_path) / ADAPTER_CONFIG_NAME).is_file():
        return (
            f"{name_or_path} holds an adapter and no model; load it onto its base in Python, merge it "
            "(hf_sparse.merge_adapter), save that and name its directory"
        )
    return f"{name_or_path} holds no model, there is no {CONFIG_NAME} in it; name the directory of one"


def _configuration(name_or_path: str) -> PreTrainedConfig:
    """Read the configuration of a saved model; raise `ValueError` if it is not there or damaged."""
    recover_directory(Path(name_or_path))
    if Path(name_or_path).is_dir():
        file = Path(name_or_path) / CONFIG_NAME
        if not file.is_file():
            raise ValueError(_no_model(name_or_path))
        require_plausible(file)
    elif Path(name_or_path).exists() or not _is_hub_name(name_or_path):
        raise ValueError(
            f"{name_or_path} is no directory; name the one the model was saved in, or a Hub name"
        )
    elif (file := _fetched(name_or_path)) is not None:
        require_plausible(file)
    try:
        with described_by(f"{name_or_path}/{CONFIG_NAME}"):
            return AutoConfig.from_pretrained(name_or_path)
    except OSError as error:
        # Of a model that the Hub does not have, transformers says so.
        if not isinstance(error.__cause__, LocalEntryNotFoundError):
            raise
        raise ValueError(
            f"{name_or_path} is no directory, and the Hub cannot be reached to look for it there; name the "
            "directory of a model, or go online"
        ) from error


def _fetched(name: str) -> Path | None:
    """Return where the configuration of a model on the Hub lies here; None if it cannot be had."""
    try:
        return Path(cached_file(name, CONFIG_NAME))
    except OSError:
        # Which says why, where it is loaded.
        return None


def _is_hub_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _damaged(name_or_path: str) -> Path | str:
    """Return which file of weights cannot be opened."""
    for file in weight_files(name_or_path):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return file
    return name_or_path
