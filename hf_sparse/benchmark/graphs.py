"""ONNX Runtime and OpenVINO as contenders, from files that each is exported to once."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.benchmark.eager import shared_copy
from hf_sparse.benchmark.field import Running
from hf_sparse.export.directory import exported_bytes
from hf_sparse.export.onnx import ExportedOnnx, export_onnx
from hf_sparse.export.openvino import MODEL_NAME
from hf_sparse.export.session import open_session
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.layers import quantized_layers

_EXPORT = ("onnx", "onnx_ir", "onnxscript")


class Exports:
    """The ONNX files of a model in a directory: its weights as floats, and quantized."""

    def __init__(
        self, model: PreTrainedModel, plain: PreTrainedModel, inputs: Mapping[str, Tensor], scratch: Path
    ) -> None:
        self.model, self.plain, self.inputs, self.scratch = model, plain, dict(inputs), scratch
        self.quantized = bool(quantized_layers(model))

    @cached_property
    def floats(self) -> ExportedOnnx:
        """The model without quantized layers."""
        return export_onnx(self.plain, self.scratch / "floats.onnx")

    @cached_property
    def integers(self) -> ExportedOnnx:
        """The model quantized as it is, or, where it is plain, with ranges of the inputs themselves."""
        model = self.model
        if not self.quantized:
            model = shared_copy(model)
            calibrate(model, [self.inputs])
        return export_onnx(model, self.scratch / "integers.onnx")

    def __getitem__(self, kind: str) -> ExportedOnnx:
        """Return the file of a kind, float32 or int8."""
        return self.floats if kind == "float32" else self.integers


def onnx_runtime(exports: Exports, kind: str, threads: int) -> Running:
    """Run the file of a kind, float32 or int8, in ONNX Runtime.

    A model that is not quantized is by ONNX Runtime itself, its weights per channel and inputs as they come.
    """
    _require("export", *_EXPORT, "onnxruntime")
    note = ""
    if kind == "int8" and not exports.quantized:
        from onnxruntime.quantization import quantize_dynamic

        source, path = exports.floats.path, exports.scratch / "dynamic.onnx"
        with quiet_root():
            quantize_dynamic(source, path, per_channel=True)
        note = "Rounded by onnxruntime.quantization.quantize_dynamic, per channel."
        size = path.stat().st_size
    else:
        path, size = exports[kind].path, exported_bytes(exports[kind])
    session = open_session(path, threads)
    arrays = {value.name: exports.inputs[value.name].numpy() for value in session.get_inputs()}
    first = [session.get_outputs()[0].name]
    return Running(lambda: torch.from_numpy(session.run(first, arrays)[0]), size, note)


def openvino(exports: Exports, kind: str, threads: int) -> Running:
    """Run the file of a kind, float32 or int8, in OpenVINO, in float32 where it is not quantized."""
    _require("openvino", *_EXPORT, "openvino")
    import openvino as library

    path = exports.scratch / kind / MODEL_NAME
    core = library.Core()
    library.save_model(core.read_model(exports[kind].path), path, compress_to_fp16=False)
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    names = (value.any_name for value in compiled.inputs)
    arrays = {name: exports.inputs[name].numpy() for name in names}

    def call() -> Tensor:
        request.infer(arrays, share_inputs=True)
        # A view of what the next call writes to.
        return torch.from_numpy(request.get_output_tensor(0).data).clone()

    note = ""
    if kind == "int8" and not exports.quantized:
        note = "Quantized by hf_sparse, with the ranges that the inputs of this benchmark have."
    size = sum(file.stat().st_size for file in path.parent.iterdir())
    return Running(call, size, note)


def _require(extra: str, *packages: str) -> None:
    """Raise `ValueError` if a package of an extra is not installed."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(f'{package} is not installed; run pip install "hf_sparse[{extra}]"') from error


@contextmanager
def quiet_root() -> Iterator[None]:
    """Keep back the advice that onnxruntime gives everybody, past all loggers but the root."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    root.addFilter(_errors_alone)
    try:
        yield
    finally:
        root.removeFilter(_errors_alone)
        # Whoever logs by the functions of the module gives a root without a handler one.
        root.handlers[:] = handlers


def _errors_alone(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
