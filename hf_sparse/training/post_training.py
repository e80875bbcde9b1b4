"""Quantization of trained models without training, and the directory that quantized training would leave."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.checkpoint.carrying import carry
from hf_sparse.checkpoint.directories import holds_only, published, require_free
from hf_sparse.checkpoint.loading import load_tokenizer, load_whole, rounded_as
from hf_sparse.checkpoint.saved_files import saved_file
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.convert import QUANTIZED
from hf_sparse.quantization.layers import QuantizedLayer
from hf_sparse.recipe import Recipe
from hf_sparse.settings.quantization import QuantizationRecipe
from hf_sparse.targets import find_targets
from hf_sparse.training.finite import not_finite
from hf_sparse.training.state import SIDECAR, SavedState, read_state, write_state


def load_unrounded(name_or_path: str) -> PreTrainedModel:
    """Load a model to quantize; raise `ValueError` if its weights have been rounded, or as `load_whole`."""
    if (form := rounded_as(name_or_path)) is not None:
        raise ValueError(
            f"{name_or_path} is a {form} directory, whose weights are rounded already; take the model it was "
            "made of"
        )
    return load_whole(name_or_path)


def load_for_texts(
    name_or_path: str, tokenizer: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """Load a model to calibrate with texts, its tokenizer, and the names of the inputs it accepts.

    `tokenizer` is where that lies, if not with the model. Raises `ValueError` if there is none, and for
    models that read something else.
    """
    model = load_unrounded(name_or_path)
    reader = load_tokenizer(tokenizer or name_or_path)
    if reader is None:
        raise ValueError(
            f"{tokenizer or name_or_path} has no tokenizer; save it there with tokenizer.save_pretrained, or "
            "say where it is (--tokenizer)"
        )
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"{type(model).__name__} reads {model.main_input_name}, not texts; do it in Python, with batches "
            "of those"
        )
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"texts do not say what the decoder of {type(model).__name__} reads; do it in Python, with "
            "batches that have decoder_input_ids"
        )
    return model, reader, tuple(inspect.signature(model.forward).parameters)


def quantize_trained(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], recipe: QuantizationRecipe | None = None
) -> dict[str, QuantizedLayer]:
    """Quantize a model in place as a recipe says, its ranges observed in `batches`; see `calibrate`.

    The recipe's points in time have no meaning here. Raises `ValueError` for weights that are not finite.
    """
    if (name := not_finite(model)) is not None:
        raise ValueError(
            f"{name} holds NaN or infinite weights, which cannot be rounded; take the model from "
            "before its training diverged"
        )
    recipe = recipe or calibration_recipe()
    targets = find_targets(model, recipe.include, recipe.exclude)
    return calibrate(
        model, batches, recipe.weights, recipe.activations, recipe.observer, targets, recipe.embeddings
    )


def calibration_recipe(**settings: object) -> QuantizationRecipe:
    """Return a checked recipe, ranges as wide as what is seen unless it says otherwise."""
    if settings.get("activations", "uint8_per_tensor") == "uint8_per_tensor":
        settings = {"observer": "min_max"} | settings
    return Recipe.from_dict({"quantization": settings}).quantization


def require_own(directory: str | Path, carried: Mapping[str, Path] = MappingProxyType({})) -> None:
    """Raise `ValueError` unless `save_quantized` may write into a directory."""
    require_free(Path(directory), lambda held: _is_ours(held, carried))


def save_quantized(
    model: PreTrainedModel,
    directory: str | Path,
    recipe: QuantizationRecipe,
    tokenizer: PreTrainedTokenizerBase | None = None,
    source: str | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write a plain directory with a sidecar from which `load_trained` quantizes the model again.

    Weights are not rounded in it. `source` is where the model was loaded from: masks and recipe in a sidecar
    there are handed on. `carried` is what goes with it besides, as `checkpoint.carrying.carried` finds
    it. An earlier such directory is replaced; raises `ValueError` for one that holds something else.
    """
    state = _state(recipe, _ranges(model), source)
    with published(Path(directory), lambda held: _is_ours(held, carried)) as staged:
        model.save_pretrained(staged)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        carry(carried, staged)
        write_state(staged, state)


def _ranges(model: nn.Module) -> dict[str, Tensor]:
    """Return the observed range of each layer's input, as `Quantizer.state` does."""
    kinds = tuple(QUANTIZED.values())
    return {
        name: torch.stack([module.input_low, module.input_high]).cpu()
        for name, module in model.named_modules()
        if isinstance(module, kinds) and module.quantization.seen
    }


def _state(recipe: QuantizationRecipe, ranges: Mapping[str, Tensor], source: str | None) -> SavedState:
    # Rounding is in force from the start of a run, whatever its length.
    kept = QuantizationRecipe(**recipe.model_dump(exclude={"begin", "freeze"}, exclude_unset=True))
    sidecar = source and saved_file(source, SIDECAR)
    if not sidecar:
        return SavedState(Recipe(quantization=kept), 1, 1, {}, {"ranges": ranges})
    saved = read_state(sidecar.parent)
    changed = saved.recipe.model_copy(update={"quantization": kept})
    return SavedState(
        Recipe.from_dict(changed.to_dict()),
        saved.step,
        saved.total_steps,
        saved.masks,
        {**saved.extras, "ranges": ranges},
    )


def _is_ours(directory: Path, carried: Mapping[str, Path]) -> bool:
    own = ("model*.safetensors*", SIDECAR)
    return (directory / SIDECAR).is_file() and holds_only(directory, *own, carried=carried)
