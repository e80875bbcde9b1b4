"""Load exported ONNX files as models, which also work in a pipeline."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils.generic import ModelOutput

from hf_sparse.export.directory import ONNX_NAME

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxModel(nn.Module):
    """An ONNX file with the attributes of a model that `transformers.pipeline` reads; runs on the CPU."""

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
        """Return False, since the file lacks a cache of keys and values."""
        return False

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """Return the outputs of the file by their names, float32.

        Inputs that the file does not have are ignored, and missing `token_type_ids` are zeros. Raises
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
    """Load an exported model, to compute as exactly as the processor can.

    Args:
        directory: A directory that `export_directory` or `hf-sparse export` wrote.

    Returns:
        A module on the CPU, whose class has the name of the exported model's class, since pipelines read it.

    Raises:
        FileNotFoundError: The directory lacks an ONNX file.
    """
    path = Path(directory) / ONNX_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export a model into {directory} first")
    config = AutoConfig.from_pretrained(directory)
    name = (config.architectures or [OnnxModel.__name__])[0]
    return type(name, (OnnxModel,), {})(open_session(path), config)


def open_session(path: Path, threads: int | None = None) -> "InferenceSession":
    """Open an ONNX file in ONNX Runtime, to compute as exactly as the processor can.

    `threads` do not spin between calls; None leaves their number to ONNX Runtime.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
    # The default also rounds inputs of layers whose weights alone are quantized.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    if "QuantizeLinear" in operators:
        # x86 processors without VNNI add products of uint8 and int8 in 16 bits, which can overflow.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
