"""Write models in the intermediate representation of OpenVINO, from their ONNX file."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.export.onnx import ExportedOnnx, export_onnx

MODEL_NAME, WEIGHTS_NAME = "openvino_model.xml", "openvino_model.bin"


def export_openvino(
    model: PreTrainedModel, directory: str | Path, inputs: Mapping[str, Tensor] | None = None
) -> ExportedOnnx:
    """Write a model as openvino_model.xml and openvino_model.bin; return facts of the ONNX file in between.

    That file is deleted. Weights that are not quantized stay float32.

    Args:
        model: A float32 model.
        directory: The directory to write. An earlier export is replaced.
        inputs: An example batch, as in `export_onnx`.

    Returns:
        The inputs, outputs and operators of the ONNX file.

    Raises:
        ValueError: The directory holds anything else, and as in `export_onnx`.
    """
    import openvino

    # `convert_model` would do, but it reports its use over the network.
    with replacing_directory(Path(directory), _is_ours) as staged, tempfile.TemporaryDirectory() as scratch:
        exported = export_onnx(model, Path(scratch) / "model.onnx", inputs)
        graph = openvino.Core().read_model(exported.path)
        openvino.save_model(graph, staged / MODEL_NAME, compress_to_fp16=False)
    return exported


def _is_ours(directory: Path) -> bool:
    return (directory / MODEL_NAME).is_file() and holds_only(directory, MODEL_NAME, WEIGHTS_NAME)
