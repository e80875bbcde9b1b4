"""Saved models as they computed when they were saved."""

from functools import partial
from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from hf_sparse.checkpoint.loading import load_saved, load_whole, named_class, rounded_as
from hf_sparse.checkpoint.packed import load_packed
from hf_sparse.checkpoint.quantizer import METHOD
from hf_sparse.checkpoint.saved_files import packed_file, saved_file
from hf_sparse.checkpoint.sidecar import SIDECAR, check_weights, read_state
from hf_sparse.training.quantizer import Quantizer


def load_trained(name_or_path: str) -> PreTrainedModel:
    """Load a model, in evaluation mode, quantized where it was when it was saved, its ranges fixed.

    It comes from a packed file if the configuration says so; else from ordinary weights, whose sidecar says
    how layers are quantized; without a sidecar, or at a step before rounding began, it is plain.
    `name_or_path` is a directory or a Hub name. Raises `ValueError` for damaged files, for ranges of other
    layers than the model has, and where weights are missing or left over, as `load_whole` does.
    """
    if (packed := packed_file(name_or_path)) is not None:
        return load_packed(packed.parent)
    known = hasattr(transformers, named_class(name_or_path) or "")
    model = load_whole(name_or_path) if known else load_saved(name_or_path)
    requantize(model, name_or_path)
    return model


def load_to_publish(name_or_path: str) -> PreTrainedModel:
    """Load a model to write in another format, all of it from its files.

    Raises `ValueError` for what other software has rounded, for a configuration without a class, and as
    `load_whole` and `load_trained` do.
    """
    if (form := rounded_as(name_or_path)) not in (None, METHOD):
        raise ValueError(
            f"{name_or_path} is a {form} directory, which cannot be turned into another format; take the "
            "model it was made of"
        )
    if named_class(name_or_path) is None:
        raise ValueError(
            f"{CONFIG_NAME} of {name_or_path} names no class (architectures), so a head could be lost; load "
            "it in Python as the class it is, and save it again"
        )
    if packed_file(name_or_path) is not None:
        return load_trained(name_or_path)
    model = load_whole(name_or_path)
    requantize(model, name_or_path)
    return model


def load_to_run(name_or_path: str) -> PreTrainedModel:
    """Load a model to compute with in float32; raise `ValueError` for what other software has rounded."""
    if (form := rounded_as(name_or_path)) not in (None, METHOD):
        raise ValueError(
            f"{name_or_path} is a {form} directory, whose layers are those of other software; take the model "
            "it was made of"
        )
    return load_trained(name_or_path).float()


def requantize(model: PreTrainedModel, name_or_path: str, **hub: Any) -> None:
    """Quantize a model as the one it was loaded from was quantized when it was saved; leave a plain one.

    Its head may be another. `hub` is what `from_pretrained` takes to find a model on the Hub, such as
    `revision` and `cache_dir`. Raises `ValueError` as `load_trained` does.
    """
    sidecar = saved_file(name_or_path, SIDECAR, **hub)
    if sidecar is None:
        return
    saved = read_state(sidecar.parent)
    recipe = saved.recipe.quantization
    if recipe is None or saved.step < recipe.resolve(saved.total_steps)[0]:
        return
    check_weights(sidecar, saved.weights, partial(saved_file, name_or_path, **hub))
    quantizer, ranges = Quantizer(recipe, model), saved.extras.get("ranges", {})
    if foreign := sorted(ranges.keys() - quantizer.layers.keys()):
        raise ValueError(
            f"{sidecar} has ranges for {len(foreign)} layers that the model beside it does not have, such as "
            f"{foreign[0]}; restore the files that were saved together"
        )
    quantizer.load_state(ranges)
    quantizer.begin(model, saved.step, saved.total_steps)
    quantizer.end()
