"""Saved models as they computed when they were saved."""

from pathlib import Path

from transformers import PreTrainedModel

from hf_sparse.checkpoint.container import PACKED
from hf_sparse.checkpoint.loading import load_saved, saved_file
from hf_sparse.checkpoint.packed import load_packed
from hf_sparse.training.quantizer import Quantizer
from hf_sparse.training.state import SIDECAR, SavedState, read_state


def load_trained(name_or_path: str) -> PreTrainedModel:
    """Load a model, in evaluation mode, quantized where it was when it was saved, its ranges fixed.

    It comes from a packed file if there is one; else from ordinary weights, whose sidecar says how layers
    are quantized; without a sidecar, or at a step before rounding began, it is plain. `name_or_path` is a
    directory or a Hub name. Raises `ValueError` for damaged files, and for ranges of other layers than the
    model has.
    """
    if (packed := saved_file(name_or_path, PACKED)) is not None:
        return load_packed(packed.parent)
    model = load_saved(name_or_path)
    sidecar = saved_file(name_or_path, SIDECAR)
    if sidecar is not None:
        _quantize(model, read_state(sidecar.parent), sidecar)
    return model


def _quantize(model: PreTrainedModel, saved: SavedState, sidecar: Path) -> None:
    recipe = saved.recipe.quantization
    if recipe is None or saved.step < recipe.resolve(saved.total_steps)[0]:
        return
    quantizer, ranges = Quantizer(recipe, model), saved.extras.get("ranges", {})
    if foreign := sorted(ranges.keys() - quantizer.layers.keys()):
        raise ValueError(
            f"{sidecar} has ranges for {len(foreign)} layers that the model beside it does not have, such as "
            f"{foreign[0]}; restore the files that were saved together"
        )
    quantizer.load_state(ranges)
    quantizer.begin(model, saved.step, saved.total_steps)
    quantizer.end()
