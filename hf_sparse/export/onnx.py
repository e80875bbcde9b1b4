"""Write models as ONNX files, quantized layers as integers."""

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.atomic.file_group import FileGroup, staged_files
from hf_sparse.export.inputs import example_inputs
from hf_sparse.export.layers import OPSET, forget_origin, narrow, onnx_layer, unsign
from hf_sparse.quantization.quantized_layers import QuantizedLayer, quantized_layers

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


@dataclass(frozen=True)
class ExportedOnnx:
    """An ONNX file: the names of its inputs and outputs, and the number of nodes of each operator."""

    path: Path
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantized_layers: int
    nodes: Mapping[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.nodes.items()))
        return (
            f"{self.path}: opset {self.opset}, {self.quantized_layers} quantized layers, "
            f"{', '.join(self.inputs)} to {', '.join(self.outputs)}\n{counts}"
        )


def export_onnx(
    model: PreTrainedModel, path: str | Path, inputs: Mapping[str, Tensor] | None = None
) -> ExportedOnnx:
    """Write a model as an ONNX file of opset 21; the model stays as it is.

    Quantized layers become QuantizeLinear and DequantizeLinear around MatMul, or MatMulInteger where
    activations are int8_per_token. Weights of 2 to 4 bits whose inputs are floats take half a byte each.

    Args:
        model: A float32 model.
        path: The file to write. Weights of more than about 1.5 GB go to a second file, PATH.data.
        inputs: An example batch of at least two rows; by default, for models of text, the outputs of their
            tokenizer, and for models of images, sounds and pairs of sequences what optimum makes, if it is
            installed. Its names become those of the file's inputs. Dimension 0 is dynamic, and so is
            dimension 1 of matrices.

    Returns:
        The names of inputs and outputs, as in the model's own output, and the operators of the file.

    Raises:
        ValueError: The model is not float32, needs an example batch, has layers that ONNX cannot express, or
            cannot be exported by torch, such as Llama 4 with its complex numbers. Nothing is written then.
    """
    if model.dtype != torch.float32:
        raise ValueError(
            f"the model is {model.dtype}, and only float32 is exported; call model.float() first"
        )
    layers = quantized_layers(model)
    exported = _for_export(model, layers)
    inputs = example_inputs(exported) if inputs is None else dict(inputs)
    outputs = _output_names(exported, inputs)
    program = _traced(exported, inputs, outputs)
    narrow(program.model.graph, layers)
    unsign(program.model.graph, layers)
    forget_origin(program.model.graph)
    path = Path(path)
    _write(program, path)
    nodes = Counter(node.op_type for node in program.model.graph)
    return ExportedOnnx(path, OPSET, tuple(inputs), outputs, len(layers), nodes)


def _for_export(model: PreTrainedModel, layers: Mapping[str, QuantizedLayer]) -> PreTrainedModel:
    """Return a copy of a model that shares its parameters, with ONNX modules for quantized layers."""
    # `deepcopy` uses the objects in its memo in place of copies.
    memo: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    for name, layer in layers.items():
        module = model.get_submodule(name)
        memo[id(module)] = onnx_layer(name, layer, module)
    exported = copy.deepcopy(model, memo).eval()
    # Decoders inside encoder-decoders have configurations of their own.
    for module in exported.modules():
        if isinstance(module, PreTrainedModel):
            module.config.use_cache = False
            # The graph lacks fused attention, and torch fails to take T5's apart.
            module.set_attn_implementation("eager")
    exported.config.return_dict = True
    # An implementation without a loop over experts.
    exported.set_experts_implementation("batched_mm")
    return exported


def _traced(model: PreTrainedModel, inputs: Mapping[str, Tensor], outputs: tuple[str, ...]) -> "ONNXProgram":
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                kwargs=dict(inputs),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={name: _dynamic(name, value) for name, value in inputs.items()},
                output_names=list(outputs),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise ValueError(
            f"torch cannot export {type(model).__name__} to ONNX: {reason}; save it packed instead "
            "(hf-sparse pack --format packed)"
        ) from error
    if program is None:
        raise RuntimeError("torch.onnx.export returned None, although dynamo is set")
    return program


def _output_names(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[str, ...]:
    with torch.no_grad():
        outputs = model(**inputs)
    return tuple(name for name, value in outputs.items() if isinstance(value, Tensor))


def _dynamic(name: str, value: Tensor) -> dict[int, str]:
    if value.dim() != 2:
        return {0: "batch"}
    return {0: "batch", 1: "decoder_sequence" if name.startswith("decoder_") else "sequence"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of torch about its own interfaces and optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write(program: "ONNXProgram", path: Path) -> None:
    with staged_files(path.parent, _FILES) as staged:
        program.save(staged / path.name)


# The weights before the graph that refers to them.
_FILES = FileGroup("onnx-", order=lambda name: (not name.endswith(".data"), name))
