"""Quantize a trained model: weights are rounded as they are, ranges of inputs come from a few batches."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hf_sparse.quantization.bypass import require_called
from hf_sparse.quantization.convert import attach, detach
from hf_sparse.quantization.embeddings import find_embeddings
from hf_sparse.quantization.fake_layers import Phase
from hf_sparse.quantization.quantized_layers import QuantizedLayer, quantized_layers
from hf_sparse.quantization.weights import read_weight_scheme
from hf_sparse.savable import require_lasting
from hf_sparse.targets import Targets, find_targets


def calibrate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    weights: str = "int8_per_channel",
    activations: str = "uint8_per_tensor",
    observer: str = "min_max",
    targets: Targets | None = None,
    embeddings: str | None = None,
) -> dict[str, QuantizedLayer]:
    """Quantize a trained model in place, so that it computes with rounded values; return its layers.

    Args:
        model: The model; its parameters keep their values.
        batches: Inputs of the model without labels, run once in evaluation mode.
        weights: The scheme of the weights: int8_per_channel, int8_per_tensor, int4_group_32 and the like.
        activations: How inputs are rounded: uint8_per_tensor, int8_per_token or none.
        observer: How the range of an input is found: min_max, moving_average, percentile or
            mean_squared_error.
        targets: The weights to quantize, by default those of `find_targets`.
        embeddings: The scheme of the embedding tables; None leaves them in floats.

    Returns:
        The quantized layers by the names of their modules.

    Raises:
        ValueError: `batches` is empty, no batch reaches a layer, or a weight or a table cannot be quantized.
            The model is then as it was before.
    """
    targets = targets or find_targets(model)
    require_lasting(model, targets, "quantization")
    require_called(model, targets)
    phase = Phase(active=True, observing=True, calibrating=True)
    tables = find_embeddings(model) if embeddings else ()
    try:
        layers = attach(targets, read_weight_scheme(weights), activations, observer, phase)
        if embeddings:
            layers |= attach(tables, read_weight_scheme(embeddings), "none", observer, phase)
        count = 0
        with _evaluating(model), torch.no_grad():
            for batch in batches:
                model(**batch)
                count += 1
        phase.calibrating = phase.observing = False
        if not count and activations == "uint8_per_tensor":
            raise ValueError("calibration needs at least one batch; give data that the model is meant for")
        found = quantized_layers(model)
        if count and (idle := [name for name, layer in layers.items() if not layer.called]):
            raise ValueError(
                f"no batch has called {len(idle)} of {len(layers)} layers, such as {idle[0]}, so the model "
                "may take their weights itself; calibrate with data that uses them, or exclude them"
            )
        return found
    except BaseException:
        # After an error the model is as it was.
        detach(model)
        raise


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
