"""Undo checkpoints of quantization-aware training, which hold the observers of their activations.

SparseML (`sparseml/pytorch/sparsification/quantization/`), which trained the int8 oBERT models, wraps a
quantized layer: `query.module.weight`, `query.module.weight_fake_quant.*`,
`query.quant.activation_post_process.*`, and observers in products of activations. Intel's
Model-Compression-Research-Package (`model_compression_research/quantization/qat.py`) keeps `query.weight` and
adds `query.weight_fake_quant.*`, `input_fake_quant.*`, `output_fake_quant.*`, `_step` and
`fake_quant_enabled`.

Weights are floats in both and are kept as they are. The simulated rounding to 8 bits is not carried over: a
note says so, and its effect is measured. Both round with `FakeQuantize` of `torch.ao.quantization`, which has
`scale`, `zero_point`, a switch, and the range that its observer saw. Intel's `output_fake_quant` rounds only
if `requantize` is set.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_sparse.hub.legacy.old_checkpoint import Conversion, Grid, Rounds, State, some

_OBSERVED = re.compile(
    r"(?P<module>.+?)(?:\.module|\.quant|\.(?:input|output)_quant_stubs\.\d+)?"
    r"\.(?:weight_fake_quant|input_fake_quant|output_fake_quant|activation_post_process)\..+"
)
_GRID = re.compile(
    r"(?P<home>(?P<module>.+?)(?P<place>\.module|\.quant|\.(?:input|output)_quant_stubs\.\d+)?"
    r"\.(?P<what>weight_fake_quant|input_fake_quant|output_fake_quant|activation_post_process))\.scale"
)
_PARTS = {"weight_fake_quant": "weight", "input_fake_quant": "inputs", "output_fake_quant": "outputs"}
_SWITCH = re.compile(r".+\.(?:_step|fake_quant_enabled|observer_enabled)")
_WRAPPED = re.compile(r"(?P<module>.+)\.module\.(?P<own>weight|bias|weight_original|weight_mask)")


def drop_observers(state: State) -> Conversion | None:
    """Take layers out of their wrappers and drop their observers; see the module."""
    observed = {match["module"] for key in state.tensors if (match := _OBSERVED.fullmatch(key))}
    wrapped = any(map(_WRAPPED.fullmatch, state.tensors))
    if not observed and not wrapped:
        return None
    tensors = {}
    for key, value in state.tensors.items():
        if _OBSERVED.fullmatch(key) or _SWITCH.fullmatch(key):
            continue
        match = _WRAPPED.fullmatch(key)
        name = f"{match['module']}.{match['own']}" if match else key
        if name in tensors or (match and name in state.tensors):
            raise ValueError(
                f"the checkpoint holds {key} and {name}, and cannot say which counts; remove one of them"
            )
        tensors[name] = value
    note = (
        f"{some(len(observed), 'layer')} rounded to 8 bits in training: weights are kept as floats, the "
        "ranges of activations are not carried over"
    )
    return Conversion(State(tensors, state.config), (note,), rounded=_rounded(state.tensors))


def _rounded(tensors: Mapping[str, Tensor]) -> dict[str, Rounds | None]:
    """Return the grids that each layer rounds to, None for products of activations."""
    found: dict[str, dict[str, Grid] | None] = {}
    for match in filter(None, map(_GRID.fullmatch, tensors)):
        home, place = match["home"], match["place"] or ""
        switches = (tensors.get(f"{home}.{name}") for name in ("fake_quant_enabled", "requantize"))
        if any(switch is not None and not switch.any() for switch in switches):
            continue
        if "_stubs." in place:
            found[match["module"]] = None
        elif (grids := found.setdefault(match["module"], {})) is not None:
            part = _PARTS.get(match["what"]) or ("inputs" if place == ".quant" else "outputs")
            grids[part] = _grid(tensors, home, part == "weight")
    return {name: None if grids is None else Rounds(**grids) for name, grids in found.items()}


def _grid(tensors: Mapping[str, Tensor], home: str, is_weight: bool) -> Grid:
    scale = tensors[f"{home}.scale"].float().flatten()
    zero_point = tensors.get(f"{home}.zero_point", torch.zeros_like(scale)).float().flatten()
    least = tensors.get(f"{home}.activation_post_process.min_val", torch.zeros(1)).float().flatten()
    signed = is_weight or bool((zero_point < 0).any())
    if scale.numel() == zero_point.numel() == least.numel() == 1:
        # No tensor says where codes begin; the lowest value seen shows whether they are signed.
        signed |= bool(least < -scale * (zero_point + 1))
    return Grid(scale, zero_point, -128 if signed else 0)
