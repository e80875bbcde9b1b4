"""What a model is timed with."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.benchmark.eager import fused, optimized, plain_copy, torch_dynamic, torch_floats
from hf_sparse.benchmark.field import Maker
from hf_sparse.benchmark.graphs import Exports, onnx_runtime, openvino

# What the outputs of all are compared with.
REFERENCE = "PyTorch float32"


def makers(model: PreTrainedModel, inputs: Mapping[str, Tensor], threads: int, scratch: Path) -> list[Maker]:
    """Return how to make the contenders of a model, quantized or not, that is on the CPU in float32.

    `scratch` is a directory for the files of other runtimes, which are given so many threads; PyTorch and
    this runtime use those that PyTorch is limited to. Raises `ValueError` for quantized layers that no data
    has reached.
    """
    model.requires_grad_(False)
    plain = plain_copy(model)
    exports = Exports(model, plain, inputs, scratch)
    # What other software raises, of whatever class, is no fault of this program.
    foreign = (Exception,)
    return [
        Maker("hf_sparse fuse", lambda: fused(model, inputs), (ValueError,), ours=True),
        Maker("hf_sparse optimize", lambda: optimized(model, inputs), (ValueError,), ours=True),
        Maker(REFERENCE, lambda: torch_floats(plain, inputs)),
        Maker("PyTorch int8 dynamic", lambda: torch_dynamic(plain, inputs), foreign),
        Maker("ONNX Runtime float32", lambda: onnx_runtime(exports, "float32", threads), foreign),
        Maker("ONNX Runtime int8", lambda: onnx_runtime(exports, "int8", threads), foreign),
        Maker("OpenVINO float32", lambda: openvino(exports, "float32", threads), foreign),
        Maker("OpenVINO int8", lambda: openvino(exports, "int8", threads), foreign),
    ]
