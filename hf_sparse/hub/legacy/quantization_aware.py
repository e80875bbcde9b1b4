"""Checkpoints of quantization-aware training that carry the observers of their activations.

SparseML (`sparseml/pytorch/sparsification/quantization/`), which trained the int8 oBERT models, wraps a
quantized layer: `query.module.weight`, `query.module.weight_fake_quant.*`,
`query.quant.activation_post_process.*`, and observers in products of activations. Intel's
Model-Compression-Research-Package (`model_compression_research/quantization/qat.py`) keeps `query.weight` and
adds `query.weight_fake_quant.*`, `input_fake_quant.*`, `output_fake_quant.*`, `_step` and
`fake_quant_enabled`.

Weights are floats in both. They are kept as they are; that rounding to 8 bits was simulated is not carried
over, which a note says.
"""

import re

from hf_sparse.hub.legacy.state import Conversion, State, some

_OBSERVED = re.compile(
    r"(?P<module>.+?)(?:\.module|\.quant|\.(?:input|output)_quant_stubs\.\d+)?"
    r"\.(?:weight_fake_quant|input_fake_quant|output_fake_quant|activation_post_process)\..+"
)
_SWITCH = re.compile(r".+\.(?:_step|fake_quant_enabled|observer_enabled)")
_WRAPPED = re.compile(r"(?P<module>.+)\.module\.(?P<own>weight|bias|weight_original|weight_mask)")


def drop_observers(state: State) -> Conversion | None:
    """Take layers out of their wrappers and leave out what their observers saw."""
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
    return Conversion(State(tensors, state.config), (note,))
