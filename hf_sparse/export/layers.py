"""Quantized layers in ONNX: modules that are exported as its quantization operators, and types of the graph.

`onnx_layer` is for the model before it is exported; `narrow`, `unsign` and `forget_origin` change the graph
that torch makes.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.quantized_layers import QuantizedLayer

if TYPE_CHECKING:
    from onnx_ir import DataType, Graph, Value

OPSET = 21
_SHIFT = 128

_Multiplied = nn.Linear | Conv1D


def onnx_layer(name: str, layer: QuantizedLayer, module: nn.Module) -> nn.Module:
    """Return the module that takes the place of a quantized layer while a model is exported.

    Its int8 buffer `codes` is (in, out) for a Linear and (rows, width) for an embedding. Raises `ValueError`
    for weights with a scale per group whose input is quantized too.
    """
    if layer.weights.granularity == "group" and layer.activations != "none":
        raise ValueError(
            f"{name} has weights {layer.weights} and activations {layer.activations}, which ONNX cannot "
            "multiply as integers: a scale of every group stands in the way; choose weights per_channel or "
            "activations none"
        )
    if isinstance(module, nn.Embedding):
        return _Table(layer, module)
    if not isinstance(module, _Multiplied):
        raise ValueError(f"{name} is a {type(module).__name__}, which cannot be exported; exclude it")
    return _KINDS[layer.activations](layer, module)


class _WeightOnly(nn.Module):
    """A weight of few bits, restored to floats before it is multiplied."""

    codes: Tensor
    scales: Tensor

    def __init__(self, layer: QuantizedLayer, module: _Multiplied) -> None:
        super().__init__()
        self.group = layer.weights.group
        # The weight is not exported, but some models read its dtype.
        self.weight, self.bias = module.weight, module.bias
        self.register_buffer("codes", layer.codes.t().contiguous())
        scales = layer.scales.t().contiguous()
        if layer.weights.granularity != "group":
            scales = scales.flatten() if scales.numel() > 1 else scales.reshape(())
        self.register_buffer("scales", scales)

    def forward(self, inputs: Tensor) -> Tensor:
        where = {"axis": 0, "block_size": self.group} if self.group else {"axis": 1}
        weight = _operator(
            "DequantizeLinear", (self.codes, self.scales), self.codes.shape, torch.float32, **where
        )
        return self._biased(inputs @ weight)

    def _biased(self, product: Tensor) -> Tensor:
        return product if self.bias is None else product + self.bias


class _PerTensor(_WeightOnly):
    """The same with an input that is rounded to a fixed grid."""

    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, layer: QuantizedLayer, module: _Multiplied) -> None:
        super().__init__(layer, module)
        if layer.input_scale is None or layer.input_zero_point is None:
            raise ValueError("a layer with uint8_per_tensor activations lacks a range; calibrate it first")
        self.register_buffer("input_scale", layer.input_scale)
        self.register_buffer("input_zero_point", layer.input_zero_point.to(torch.uint8))

    def forward(self, inputs: Tensor) -> Tensor:
        grid = (self.input_scale, self.input_zero_point)
        codes = _operator("QuantizeLinear", (inputs, *grid), inputs.shape, torch.uint8)
        return super().forward(_operator("DequantizeLinear", (codes, *grid), inputs.shape, torch.float32))


class _PerToken(_WeightOnly):
    """An input that is rounded by each token's largest value; integers are multiplied, then both scales."""

    def forward(self, inputs: Tensor) -> Tensor:
        scales = inputs.abs().amax(-1, keepdim=True) / 127
        scales = torch.where(scales == 0, 1.0, scales)
        codes = torch.round(inputs / scales).to(torch.int8)
        shape = (*inputs.shape[:-1], self.codes.shape[1])
        product = _operator("MatMulInteger", (codes, self.codes), shape, torch.int32)
        return self._biased(product.float() * (scales * self.scales))


class _Table(nn.Module):
    """An embedding whose table stays integers; rows are restored after they are looked up."""

    codes: Tensor
    scales: Tensor

    def __init__(self, layer: QuantizedLayer, module: nn.Embedding) -> None:
        super().__init__()
        # Not exported, but some models read its dtype.
        self.weight = module.weight
        self.register_buffer("codes", layer.codes)
        # A scale for every row: with a single one OpenVINO computes with the codes, and a little differently.
        self.register_buffer("scales", layer.scales.expand(len(layer.codes), -1).contiguous())

    def forward(self, indices: Tensor) -> Tensor:
        rows, scales = self.codes[indices].float(), self.scales[indices]
        groups = rows.unflatten(-1, (scales.shape[-1], -1))
        return (groups * scales.unsqueeze(-1)).flatten(-2)


_KINDS = {"none": _WeightOnly, "uint8_per_tensor": _PerTensor, "int8_per_token": _PerToken}


def _operator(
    kind: str, inputs: tuple[Tensor, ...], shape: tuple[int, ...], dtype: torch.dtype, **attributes: int
) -> Tensor:
    return torch.onnx.ops.symbolic(kind, inputs, {**attributes}, dtype=dtype, shape=shape, version=OPSET)


def narrow(graph: "Graph", layers: Mapping[str, QuantizedLayer]) -> None:
    """Store codes of 4 bits or less as INT4, a type that torch does not have.

    Layers whose input is quantized too stay in 8 bits, and so do embeddings, since runtimes multiply and look
    up integers of 8 bits only.
    """
    import onnx_ir

    for value, layer in _codes(graph, layers):
        if layer.weights.bits <= 4 and layer.activations == "none" and not layer.embedding:
            _replace(value, _constant(value), onnx_ir.DataType.INT4)


def unsign(graph: "Graph", layers: Mapping[str, QuantizedLayer]) -> None:
    """Store the codes c of layers that are used several times, or on constants alone, as uint8 c + 128.

    Examples are the layers of ALBERT and the projections of positions in DeBERTa. On processors without VNNI
    ONNX Runtime makes this change itself (`session.x64quantprecision`), and fails for these layers.
    """
    import onnx_ir

    for value, layer in _codes(graph, layers):
        if layer.activations != "uint8_per_tensor":
            continue
        restorings = [node for node, _ in value.uses()]
        products = [product for node in restorings for product, _ in node.outputs[0].uses()]
        if len(products) == 1 and _depends_on_input(products[0].inputs[0]):
            continue
        codes = _constant(value).astype(np.int16) + _SHIFT
        _replace(value, codes.astype(np.uint8), onnx_ir.DataType.UINT8)
        shape = _constant(restorings[0].inputs[1]).shape
        shift = onnx_ir.tensor(np.full(shape, _SHIFT, np.uint8), name=f"{value.name}.zero_point")
        zero_point = onnx_ir.Value(
            name=shift.name,
            shape=onnx_ir.Shape(shape),
            type=onnx_ir.TensorType(shift.dtype),
            const_value=shift,
        )
        graph.register_initializer(zero_point)
        for node in restorings:
            node.resize_inputs(3)
            node.replace_input_with(2, zero_point)


def _codes(graph: "Graph", layers: Mapping[str, QuantizedLayer]) -> Iterator[tuple["Value", QuantizedLayer]]:
    """Yield the codes of each layer in the graph, which lacks layers that the model does not use."""
    for name, layer in layers.items():
        if (value := graph.initializers.get(f"{name}.codes")) is not None:
            yield value, layer


def _depends_on_input(value: "Value | None") -> bool:
    """Return whether a value is computed from an input of the graph."""
    waiting, seen = [value], set()
    while waiting:
        if (value := waiting.pop()) is None:
            continue
        if value.is_graph_input():
            return True
        node = value.producer()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += node.inputs
    return False


def forget_origin(graph: "Graph") -> None:
    """Delete the notes of torch about the code of each node, which make small files twice as large."""
    for node in graph.all_nodes():
        node.metadata_props.clear()


def _constant(value: "Value | None") -> np.ndarray:
    if value is None or value.const_value is None:
        raise ValueError(f"{value.name if value else 'an input'} of a quantized layer is not a constant")
    return value.const_value.numpy()


def _replace(value: "Value", codes: np.ndarray, kind: "DataType") -> None:
    import onnx_ir

    value.const_value = onnx_ir.tensor(codes, kind, name=value.name)
    value.type = onnx_ir.TensorType(kind)
