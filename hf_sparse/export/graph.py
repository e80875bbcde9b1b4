"""What is changed in the graph that torch exports: types that it does not have, notes that nobody needs."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hf_sparse.quantization.layers import QuantizedLayer

if TYPE_CHECKING:
    from onnx_ir import DataType, Graph, Value

_SHIFT = 128


def narrow(graph: "Graph", layers: Mapping[str, QuantizedLayer]) -> None:
    """Give codes that fit the type INT4, which torch does not have.

    Not where the input is quantized too: runtimes multiply integers of 8 bits only. Nor in embeddings, which
    they look up in 8 bits only.
    """
    import onnx_ir

    for value, layer in _codes(graph, layers):
        if layer.weights.bits <= 4 and layer.activations == "none" and not layer.embedding:
            _replace(value, value.const_value.numpy(), onnx_ir.DataType.INT4)


def unsign(graph: "Graph", layers: Mapping[str, QuantizedLayer]) -> None:
    """Store the codes c of some layers as uint8 c + 128: of those used several times or on constants alone.

    So are the layers of ALBERT and the projections of positions in DeBERTa. For processors without VNNI ONNX
    Runtime makes this change itself (`session.x64quantprecision`), and fails at just these.
    """
    import onnx_ir

    for value, layer in _codes(graph, layers):
        if layer.activations != "uint8_per_tensor":
            continue
        restorings = [node for node, _ in value.uses()]
        products = [product for node in restorings for product, _ in node.outputs[0].uses()]
        if len(products) == 1 and _depends_on_input(products[0].inputs[0]):
            continue
        codes = value.const_value.numpy().astype(np.int16) + _SHIFT
        _replace(value, codes.astype(np.uint8), onnx_ir.DataType.UINT8)
        scales = restorings[0].inputs[1]
        shift = onnx_ir.tensor(
            np.full(scales.const_value.shape.numpy(), _SHIFT, np.uint8), name=f"{value.name}.zero_point"
        )
        zero_point = onnx_ir.Value(
            name=shift.name, shape=shift.shape, type=onnx_ir.TensorType(shift.dtype), const_value=shift
        )
        graph.register_initializer(zero_point)
        for node in restorings:
            node.resize_inputs(3)
            node.replace_input_with(2, zero_point)


def _codes(graph: "Graph", layers: Mapping[str, QuantizedLayer]) -> Iterator[tuple["Value", QuantizedLayer]]:
    """Yield the codes of each layer that the graph has: what a model does not use is not in it."""
    for name, layer in layers.items():
        if (value := graph.initializers.get(f"{name}.codes")) is not None:
            yield value, layer


def _depends_on_input(value: "Value") -> bool:
    """Say whether a value is computed from what the model reads."""
    waiting, seen = [value], set()
    while waiting:
        node = (value := waiting.pop()).producer()
        if value.is_graph_input():
            return True
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [entry for entry in node.inputs if entry is not None]
    return False


def forget_origin(graph: "Graph") -> None:
    """Drop what torch notes of the code each node comes from, which makes small files twice as large."""
    for node in graph.all_nodes():
        node.metadata_props.clear()


def _replace(value: "Value", codes: np.ndarray, kind: "DataType") -> None:
    import onnx_ir

    value.const_value = onnx_ir.tensor(codes, kind, name=value.name)
    value.type = onnx_ir.TensorType(kind)
