"""Quantization of trained models without training, saved as quantized training saves them."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carry_over import carry
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.checkpoint.load import load_model, load_tokenizer
from hf_sparse.checkpoint.saved_files import saved_file
from hf_sparse.checkpoint.sidecar import SIDECAR, SavedState, read_state, write_state
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.fake_layers import FakeQuantConv1D, FakeQuantLinear
from hf_sparse.quantization.quantized_layers import QuantizedLayer
from hf_sparse.recipe.quantization import QuantizationRecipe
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.targets import find_targets
from hf_sparse.training.finite import not_finite


def load_for_texts(
    name_or_path: str, tokenizer: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """Load a model to calibrate with texts, its tokenizer, and the names of the inputs it accepts.

    `tokenizer` is the directory or Hub name of the tokenizer, by default the model's. Raises `ValueError` if
    there is none, and for models whose inputs are not texts.
    """
    model = load_model(name_or_path, accept="floats", restore=False, strict=True)
    reader = load_tokenizer(tokenizer or name_or_path)
    if reader is None:
        raise ValueError(
            f"{tokenizer or name_or_path} lacks a tokenizer; save it there with tokenizer.save_pretrained, "
            "or say where it is (--tokenizer-name)"
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
    """Quantize a model in place by a recipe, with ranges observed in `batches`.

    Args:
        model: A trained model.
        batches: Inputs of the model, without labels.
        recipe: The settings, by default `calibration_recipe()`; `begin` and `freeze` are ignored.

    Returns:
        The quantized layers by the names of their modules.

    Raises:
        ValueError: If weights are not finite, or as `calibrate` does.
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
    """Return a recipe for calibration, checked; its observer is by default `min_max`, which clips nothing.

    Args:
        settings: Fields of `QuantizationRecipe`.

    Returns:
        The checked settings.

    Raises:
        ValueError: Without settings, or if they contradict each other.
    """
    if settings.get("activations", "uint8_per_tensor") == "uint8_per_tensor":
        settings = {"observer": "min_max"} | settings
    recipe = Recipe.from_dict({"quantization": settings}).quantization
    if recipe is None:
        raise ValueError("there is nothing to quantize; give settings")
    return recipe


def require_own(directory: str | Path, carried: Mapping[str, Path] = MappingProxyType({})) -> None:
    """Raise `ValueError` unless `save_quantized` may write into a directory."""
    require_free(Path(directory), lambda held: _is_own(held, carried))


def save_quantized(
    model: PreTrainedModel,
    directory: str | Path,
    recipe: QuantizationRecipe,
    tokenizer: PreTrainedTokenizerBase | None = None,
    source: str | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write a plain directory with a sidecar from which `load_model` quantizes the model again.

    The weights in it are not rounded. An earlier such directory is replaced.

    Args:
        model: A model that `quantize_trained` has quantized.
        directory: Where to write it.
        recipe: The settings it was quantized with.
        tokenizer: Saved beside the model.
        source: Directory or Hub name that the model was loaded from; masks and recipe of a sidecar there are
            kept.
        carried: Other files to copy, as `checkpoint.carry_over.carried` returns them.

    Raises:
        ValueError: If the directory holds something else.
    """
    state = _state(recipe, _ranges(model), source)
    with replacing_directory(Path(directory), lambda held: _is_own(held, carried)) as staged:
        model.save_pretrained(staged)
        if tokenizer is not None:
            tokenizer.save_pretrained(staged)
        carry(carried, staged)
        write_state(staged, state)


def _ranges(model: nn.Module) -> dict[str, Tensor]:
    """Return the observed range of each layer's input, as `Quantizer.state` does."""
    return {
        name: torch.stack([module.input_low, module.input_high]).cpu()
        for name, module in model.named_modules()
        # Embeddings look up their inputs, and round none.
        if isinstance(module, FakeQuantLinear | FakeQuantConv1D) and module.quantization.seen
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


def _is_own(directory: Path, carried: Mapping[str, Path]) -> bool:
    own = ("model*.safetensors*", SIDECAR)
    return (directory / SIDECAR).is_file() and holds_only(directory, *own, carried=carried)
