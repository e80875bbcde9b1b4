"""The inputs of backends: a model in the forms that they take, and random tokens."""

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.data.positions import most_tokens
from hf_sparse.export.inputs import text_inputs
from hf_sparse.export.onnx import ExportedOnnx, export_onnx
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.convert import detach
from hf_sparse.quantization.quantized_layers import quantized_layers

_SEED = 0


class Job:
    """A model to be timed, quantized or not, on the CPU in float32, with its inputs.

    Backends outside PyTorch run on `threads` threads; PyTorch and this package's runtime use those that
    PyTorch is set to. Files of other runtimes go into the directory `scratch`.
    """

    def __init__(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], threads: int, scratch: Path
    ) -> None:
        model.requires_grad_(False)
        self.model, self.inputs, self.threads, self.scratch = model, dict(inputs), threads, scratch
        self.quantized = bool(quantized_layers(model))

    @cached_property
    def plain(self) -> PreTrainedModel:
        """The model without quantized layers; raises `ValueError` for layers that were never calibrated."""
        return plain_copy(self.model)

    def onnx(self, kind: str) -> ExportedOnnx:
        """Return the ONNX file of the model in `float32` or `int8`, exported once."""
        return self._float32 if kind == "float32" else self._int8

    @cached_property
    def _float32(self) -> ExportedOnnx:
        return export_onnx(self.plain, self.scratch / "floats.onnx")

    @cached_property
    def _int8(self) -> ExportedOnnx:
        """The model as it is quantized, else calibrated with the inputs of this benchmark."""
        model = self.model
        if not self.quantized:
            model = shared_copy(model)
            calibrate(model, [self.inputs])
        return export_onnx(model, self.scratch / "integers.onnx")


def plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose quantized layers are plain ones, with the weights that their codes stand for.

    All other parameters are shared.
    """
    layers = quantized_layers(model)
    copied = shared_copy(model)
    detach(copied)
    for name, layer in layers.items():
        weight = layer.weight()
        weight = (weight.t() if layer.transposed else weight).contiguous()
        copied.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    return copied


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model, in evaluation mode, that shares its parameters and keeps no cache."""
    # `deepcopy` takes what its memo holds in place of a copy.
    memo: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    copied = copy.deepcopy(model, memo).eval()
    copied.config.use_cache = False
    return copied


def random_inputs(model: PreTrainedModel, batch: int, length: int) -> dict[str, Tensor]:
    """Return inputs as a tokenizer makes them: (batch, length) random tokens without padding.

    The same for every call with the same arguments. Raises `ValueError` for models that read anything but
    texts, and for lengths beyond a model's positions.
    """
    try:
        names = tuple(text_inputs(model))
    except ValueError:
        raise ValueError(
            f"{type(model).__name__} does not read texts alone, as models that are timed must; name an "
            "encoder or a decoder of texts"
        ) from None
    most = most_tokens(model)
    if most is not None and length > most:
        raise ValueError(
            f"{length} tokens are more than the {most} that the model has positions for; take fewer, with "
            "--max-seq-length"
        )
    inputs = {name: torch.ones(batch, length, dtype=torch.long) for name in names}
    inputs["input_ids"] = _tokens(model, batch, length)
    if "token_type_ids" in inputs:
        inputs["token_type_ids"].zero_()
    return inputs


def _tokens(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    table = model.get_input_embeddings()
    count = table.num_embeddings if isinstance(table, nn.Embedding) else model.config.vocab_size
    padding = getattr(model.config, "pad_token_id", None)
    known = torch.tensor([token for token in range(count) if token != padding] or [0])
    drawn = torch.randint(len(known), (batch, length), generator=torch.Generator().manual_seed(_SEED))
    return known[drawn]
