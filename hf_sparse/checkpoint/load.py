"""Saved models and tokenizers, loaded as what they were saved as."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from hf_sparse.architectures import PRETRAINING_PARTS
from hf_sparse.atomic.directories import recover_directory
from hf_sparse.checkpoint.configuration import (
    described_by,
    method_of,
    read_config,
    require_plausible,
)
from hf_sparse.checkpoint.packed.model import load_packed
from hf_sparse.checkpoint.packed.packed_file import METHOD
from hf_sparse.checkpoint.saved_files import module_folders, packed_file, saved_file, weight_files
from hf_sparse.checkpoint.sidecar import RANGES, SIDECAR, check_weights, read_state
from hf_sparse.distillation.teacher import HUB_OPTIONS, TOKENIZER_FILES
from hf_sparse.quantization.ranges import restore_quantization

logger = logging.getLogger(__name__)

# Parts that pre-training leaves in a file and many classes lack.
_SPARE = re.compile(rf"(^|\.)({'|'.join(PRETRAINING_PARTS)})\.")


def load_model(
    name_or_path: str | Path,
    *,
    accept: Literal["any", "own", "floats"] = "any",
    restore: bool = True,
    strict: bool | None = None,
    require_class: bool = False,
    **from_pretrained_kwargs: Any,
) -> PreTrainedModel:
    """Load a saved model as the class that its configuration names, computing as it did when it was saved.

    Weights come from a packed file if the configuration says so, else from ordinary files. The sidecar beside
    those says which layers round, and in which ranges; a model without a sidecar, or saved before rounding
    began, is plain. A configuration that names no class, or one that transformers lacks, gives a model
    without a head.

    Args:
        name_or_path: A directory or a Hub name.
        accept: Which rounded weights may be loaded: those of `any` software, of hf_sparse (`own`), or none
            (`floats`).
        restore: Quantize layers as they were when the model was saved, with fixed ranges. `False`: load what
            `from_pretrained` does.
        strict: Refuse a class that transformers lacks, and tensors in the files that the class cannot hold;
            poolers and heads of pre-training may be left over. By default, where transformers has the class.
        require_class: Refuse a configuration that names no class, since a head could be lost; be strict.
        from_pretrained_kwargs: As `from_pretrained` takes them, such as `dtype`; where to find a model on the
            Hub (`revision`, `cache_dir`, `token` ...) holds for its sidecar and configuration, too.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        ValueError: A file is damaged and named; weights of the class are missing, which transformers would
            draw at random, or have other shapes (an encoder may lack its pooler); ranges are of layers that
            the model lacks; or what the arguments above refuse.
    """
    name = str(name_or_path)
    hub = {key: value for key, value in from_pretrained_kwargs.items() if key in HUB_OPTIONS}
    _require_accepted(name, accept, hub)
    if require_class and named_class(name, **hub) is None:
        raise ValueError(
            f"{CONFIG_NAME} of {name} names no class (architectures), so a head could be lost; load it in "
            "Python as the class it is, and save it again"
        )
    if restore and (packed := packed_file(name, **hub)) is not None:
        changes = {key: value for key, value in from_pretrained_kwargs.items() if key not in HUB_OPTIONS}
        return load_packed(packed.parent, **changes)
    if strict is None:
        strict = require_class or hasattr(transformers, named_class(name, **hub) or "")
    if strict:
        require_known_class(name, **hub)
    model, found = _load(name, hub, from_pretrained_kwargs)
    if strict:
        left_over = (key for key in found["unexpected_keys"] if not _SPARE.search(key))
        _refuse(f"{name} holds {{}}, which a {type(model).__name__} cannot hold", left_over)
    if restore:
        requantize(model, name, **hub)
    return model


def requantize(model: PreTrainedModel, name_or_path: str, **hub: Any) -> None:
    """Quantize a model as the one it was loaded from was quantized when it was saved; leave a plain one.

    Its head may be another. `hub` is what `from_pretrained` takes to find a model on the Hub, such as
    `revision` and `cache_dir`. Raises `ValueError` for a damaged sidecar, for one of other weights, and for
    ranges of layers that the model lacks.
    """
    sidecar = saved_file(name_or_path, SIDECAR, **hub)
    if sidecar is None:
        return
    saved = read_state(sidecar.parent)
    recipe = saved.recipe.quantization
    if recipe is None or saved.step < recipe.resolve(saved.total_steps)[0]:
        return
    check_weights(sidecar, saved.weights, partial(saved_file, name_or_path, **hub))
    restore_quantization(model, recipe, saved.extras.get(RANGES, {}), sidecar)


def _require_accepted(name: str, accept: str, hub: Mapping[str, Any]) -> None:
    """Raise `ValueError` for rounded weights that the caller does not accept."""
    if accept == "any" or (form := rounded_as(name, **hub)) is None:
        return
    if accept == "floats":
        raise ValueError(
            f"{name} is a {form} directory, whose weights are rounded already; take the model it was made of"
        )
    if form != METHOD:
        raise ValueError(
            f"{name} is a {form} directory, whose layers are those of other software: they can neither be "
            "written in another format nor be run by hf_sparse; take the model it was made of"
        )


def _load(
    name_or_path: str, hub: Mapping[str, Any], options: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model with all weights of its class; return it and the report of transformers."""
    kind = getattr(transformers, named_class(name_or_path, **hub) or "", AutoModel)
    options = options | {"output_loading_info": True}
    try:
        with described_by(f"{name_or_path}/{CONFIG_NAME}"), _in_shape(kind, name_or_path, options):
            model, found = kind.from_pretrained(name_or_path, **options)
            if found["missing_keys"] and all(name.startswith("pooler.") for name in found["missing_keys"]):
                # An encoder saved without the pooler that its class makes by default.
                model, found = kind.from_pretrained(name_or_path, add_pooling_layer=False, **options)
    except SafetensorError as error:
        raise ValueError(
            f"{_damaged(name_or_path)} is not a whole file of tensors ({error}); fetch it again, or save the "
            "model again"
        ) from error
    made = type(model).__name__
    _refuse(f"{name_or_path} lacks {{}} of a {made}, which would be random", found["missing_keys"])
    return model, found


@contextmanager
def _in_shape(kind: Any, name_or_path: str, options: dict[str, Any]) -> Iterator[None]:
    """Replace the error of transformers for weights of other shapes by one that names a weight."""
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        # On the meta device, since the configuration may ask for any size.
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
    """Load the tokenizer that was saved with a model, None without one; `hub` as in `saved_file`."""
    # Without any of these files transformers would make an empty tokenizer.
    if all(saved_file(name_or_path, file, **hub) is None for file in TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(name_or_path, **hub)


def rounded_as(name_or_path: str, **hub: Any) -> str | None:
    """Return the format in which the weights of a saved model are rounded, None if they are not."""
    held = getattr(_configuration(name_or_path, **hub), "quantization_config", None)
    return method_of(held) if held else None


def named_class(name_or_path: str, **hub: Any) -> str | None:
    """Return the class that a model was saved as, None if its configuration names none."""
    named = _configuration(name_or_path, **hub).architectures
    return named[0] if named else None


def require_known_class(name_or_path: str, **hub: Any) -> None:
    """Raise `ValueError` if a model was saved as a class that transformers does not have.

    Loading it anyway would lose its head, or more.
    """
    named = named_class(name_or_path, **hub)
    if named is not None and not hasattr(transformers, named):
        raise ValueError(
            f"{name_or_path} is a {named}, which is not a class of transformers; load it in Python, and give "
            "the model itself"
        )


def _no_model(name_or_path: str) -> str:
    """Return the reason why a directory without a configuration cannot be loaded."""
    for folder in module_folders(name_or_path):
        file = Path(name_or_path) / folder / CONFIG_NAME
        if file.is_file() and "model_type" in read_config(file):
            return (
                f"{name_or_path} is a model of sentence-transformers whose transformer lies in {folder}; "
                f"name {Path(name_or_path) / folder}, and put the result in its place in a copy"
            )
    if (Path(name_or_path) / ADAPTER_CONFIG_NAME).is_file():
        return (
            f"{name_or_path} holds an adapter and no model; load it onto its base in Python, merge it "
            "(hf_sparse.merge_adapter), save that and name its directory"
        )
    return f"{name_or_path} holds no model: {CONFIG_NAME} is missing; name the directory of one"


def _configuration(name_or_path: str, **hub: Any) -> PreTrainedConfig:
    """Read the configuration of a saved model; raise `ValueError` if it is not there or damaged."""
    recover_directory(Path(name_or_path))
    if Path(name_or_path).is_dir():
        file = Path(name_or_path) / hub.get("subfolder", "") / CONFIG_NAME
        if not file.is_file():
            raise ValueError(_no_model(name_or_path))
        require_plausible(file)
    elif Path(name_or_path).exists() or not _is_hub_name(name_or_path):
        raise ValueError(
            f"{name_or_path} is not a directory; name the one the model was saved in, or a Hub name"
        )
    elif (fetched := _fetched(name_or_path, **hub)) is not None:
        require_plausible(fetched)
    try:
        with described_by(f"{name_or_path}/{CONFIG_NAME}"):
            return AutoConfig.from_pretrained(name_or_path, **hub)
    except OSError as error:
        # For a model that is missing on the Hub the error of transformers says so.
        if not isinstance(error.__cause__, LocalEntryNotFoundError):
            raise
        raise ValueError(
            f"{name_or_path} is not a directory, and the Hub cannot be reached to look for it there; name "
            "the directory of a model, or go online"
        ) from error


def _fetched(name: str, **hub: Any) -> Path | None:
    """Return the local path of a configuration on the Hub; None if it cannot be fetched."""
    try:
        found = cached_file(name, CONFIG_NAME, **hub)
    except OSError:
        # The error says why once the model itself is loaded.
        return None
    return None if found is None else Path(found)


def _is_hub_name(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _damaged(name_or_path: str) -> Path | str:
    """Return the file of weights that cannot be opened."""
    for file in weight_files(name_or_path):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return file
    return name_or_path
