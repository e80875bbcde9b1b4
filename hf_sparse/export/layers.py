"""Quantized layers as modules that become the quantization operators of ONNX when they are exported."""

import torch
from torch import Tensor, nn

from hf_sparse.quantization.layers import QuantizedLayer

OPSET = 21


def onnx_layer(name: str, layer: QuantizedLayer, module: nn.Module) -> nn.Module:
    """Return what stands for a quantized layer, of that module, while a model is exported.

    Its buffer `codes` holds the weight's codes as (in, out), an embedding's as (rows, width), int8. Raises
    `ValueError` for weights with a scale per group whose input is quantized too.
    """
    if layer.weights.granularity == "group" and layer.activations != "none":
        raise ValueError(
            f"{name} has weights {layer.weights} and activations {layer.activations}, which ONNX cannot "
            "multiply as integers: a scale of every group stands in the way; choose weights per_channel or "
            "activations none"
        )
    return _Table(layer, module) if layer.embedding else _KINDS[layer.activations](layer, module)


class _WeightOnly(nn.Module):
    """A weight of few bits, restored before it is multiplied."""

    def __init__(self, layer: QuantizedLayer, module: nn.Module) -> None:
        super().__init__()
        self.group = layer.weights.group
        # The weight is not exported, but some models ask for its type.
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
    """The same with an input rounded to a grid that is known beforehand."""

    def __init__(self, layer: QuantizedLayer, module: nn.Module) -> None:
        super().__init__(layer, module)
        self.register_buffer("input_scale", layer.input_scale)
        self.register_buffer("input_zero_point", layer.input_zero_point.to(torch.uint8))

    def forward(self, inputs: Tensor) -> Tensor:
        grid = (self.input_scale, self.input_zero_point)
        codes = _operator("QuantizeLinear", (inputs, *grid), inputs.shape, torch.uint8)
        return super().forward(_operator("DequantizeLinear", (codes, *grid), inputs.shape, torch.float32))


class _PerToken(_WeightOnly):
    """An input rounded by each token's largest value: integers are multiplied, then both scales applied."""

    def forward(self, inputs: Tensor) -> Tensor:
        scales = inputs.abs().amax(-1, keepdim=True) / 127
        scales = torch.where(scales == 0, 1.0, scales)
        codes = torch.round(inputs / scales).to(torch.int8)
        shape = (*inputs.shape[:-1], self.codes.shape[1])
        product = _operator("MatMulInteger", (codes, self.codes), shape, torch.int32)
        return self._biased(product.float() * (scales * self.scales))


class _Table(nn.Module):
    """An embedding whose rows are restored after they are looked up: the whole table stays integers."""

    def __init__(self, layer: QuantizedLayer, module: nn.Embedding) -> None:
        super().__init__()
        # Not exported, as above.
        self.weight = module.weight
        self.register_buffer("codes", layer.codes)
        # One for every row: OpenVINO computes on with codes of a single scale, and not quite the same.
        self.register_buffer("scales", layer.scales.expand(len(layer.codes), -1).contiguous())

    def forward(self, indices: Tensor) -> Tensor:
        rows, scales = self.codes[indices].float(), self.scales[indices]
        groups = rows.unflatten(-1, (scales.shape[-1], -1))
        return (groups * scales.unsqueeze(-1)).flatten(-2)


_KINDS = {"none": _WeightOnly, "uint8_per_tensor": _PerTensor, "int8_per_token": _PerToken}


def _operator(
    kind: str, inputs: tuple[Tensor, ...], shape: tuple[int, ...], dtype: torch.dtype, **attributes: int
) -> Tensor:
    return torch.onnx.ops.symbolic(kind, inputs, attributes, dtype=dtype, shape=shape, version=OPSET)
