"""Exported ONNX files that compute in place of a model, in a pipeline too."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import ModelOutput

from hf_sparse.export.directory import ONNX_NAME

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxModel(nn.Module):
    """An ONNX file with what `transformers.pipeline` uses of a model; it computes on the CPU."""

    dtype = torch.float32
    device = torch.device("cpu")
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, session: "InferenceSession", config: PreTrainedConfig) -> None:
        super().__init__()
        self.session, self.config = session, config
        self.inputs = tuple(value.name for value in session.get_inputs())
        self.outputs = tuple(value.name for value in session.get_outputs())
        self.eval()

    def can_generate(self) -> bool:
        """Say no: there is no cache of keys and values in the file."""
        return False

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """Return the outputs of the file by their names, float32.

        A tokenizer may give more than the file reads; types of tokens that are not given are zeros. Raises
        `ValueError` if another input is missing.
        """
        given = dict(inputs)
        if "token_type_ids" in self.inputs and "token_type_ids" not in given and "input_ids" in given:
            given["token_type_ids"] = torch.zeros_like(given["input_ids"])
        if missing := [name for name in self.inputs if name not in given]:
            raise ValueError(f"the file reads {', '.join(self.inputs)}, and {missing[0]} is not given")
        arrays = {name: given[name].numpy(force=True) for name in self.inputs}
        return ModelOutput(
            {
                name: torch.from_numpy(value)
                for name, value in zip(self.outputs, self.session.run(self.outputs, arrays), strict=True)
            }
        )


def load_onnx(directory: str | Path) -> OnnxModel:
    """Load what `export_directory` wrote, computing as exactly as the processor can.

    Its class has the name of the model's own, by which pipelines know what it is for. Raises
    `FileNotFoundError` if there is no file.
    """
    path = Path(directory) / ONNX_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export a model into {directory} first")
    config = AutoConfig.from_pretrained(directory)
    name = (config.architectures or [OnnxModel.__name__])[0]
    return type(name, (OnnxModel,), {})(open_session(path), config)


def open_session(path: Path, threads: int | None = None) -> "InferenceSession":
    """Open an ONNX file in ONNX Runtime, computing as exactly as the processor can.

    On so many threads, which do not wait for work between two calls; by default as ONNX Runtime chooses.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
    # By default inputs of layers whose weights alone are quantized are rounded, too.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    if "QuantizeLinear" in operators:
        # x86 processors without VNNI add products of uint8 and int8 in 16 bits, which some do not fit.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
