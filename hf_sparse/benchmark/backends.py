"""The backends that a model is timed in: those of PyTorch, this runtime, ONNX Runtime and OpenVINO.

To add one, write a subclass of `Backend` and add it to `BACKENDS`. ONNX Runtime and OpenVINO run
files that are exported once each.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module

import torch
from torch import Tensor

from hf_sparse.benchmark.eager import Fuse, Optimize, PyTorch, PyTorchInt8
from hf_sparse.benchmark.inputs import Job
from hf_sparse.benchmark.latency import Backend, Prepared
from hf_sparse.export.directory import exported_bytes
from hf_sparse.export.openvino import MODEL_NAME
from hf_sparse.export.session import open_session

_EXPORT = ("onnx", "onnx_ir", "onnxscript")


class OnnxRuntime(Backend):
    """ONNX Runtime, in `float32` or `int8`."""

    def __init__(self, kind: str) -> None:
        self.kind, self.name = kind, f"ONNX Runtime {kind}"

    def prepare(self, job: Job) -> Prepared:
        """Open the exported file; a plain model in int8 is quantized by ONNX Runtime itself, dynamically."""
        _require("export", *_EXPORT, "onnxruntime")
        note = ""
        if self.kind == "int8" and not job.quantized:
            from onnxruntime.quantization import quantize_dynamic

            source, path = job.onnx("float32").path, job.scratch / "dynamic.onnx"
            with quiet_root():
                quantize_dynamic(source, path, per_channel=True)
            note = "Rounded by onnxruntime.quantization.quantize_dynamic, per channel."
            size = path.stat().st_size
        else:
            exported = job.onnx(self.kind)
            path, size = exported.path, exported_bytes(exported)
        session = open_session(path, job.threads)
        arrays = {value.name: job.inputs[value.name].numpy() for value in session.get_inputs()}
        first = [session.get_outputs()[0].name]
        return Prepared(
            self.name, self.own, lambda: torch.from_numpy(session.run(first, arrays)[0]), size, note
        )


class OpenVino(Backend):
    """OpenVINO, in `float32` or `int8`; layers that are not quantized are computed in float32."""

    def __init__(self, kind: str) -> None:
        self.kind, self.name = kind, f"OpenVINO {kind}"

    def prepare(self, job: Job) -> Prepared:
        """Compile the exported file for the CPU."""
        _require("openvino", *_EXPORT, "openvino")
        import openvino

        path = job.scratch / self.kind / MODEL_NAME
        core = openvino.Core()
        openvino.save_model(core.read_model(job.onnx(self.kind).path), path, compress_to_fp16=False)
        settings = {
            "INFERENCE_NUM_THREADS": job.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(path, "CPU", settings)
        request = compiled.create_infer_request()
        names = (value.any_name for value in compiled.inputs)
        arrays = {name: job.inputs[name].numpy() for name in names}

        def call() -> Tensor:
            request.infer(arrays, share_inputs=True)
            # The next call writes to the same memory.
            return torch.from_numpy(request.get_output_tensor(0).data).clone()

        note = ""
        if self.kind == "int8" and not job.quantized:
            note = "Quantized by hf_sparse, with the ranges that the inputs of this benchmark have."
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        return Prepared(self.name, self.own, call, size, note)


def _require(extra: str, *packages: str) -> None:
    """Raise `ValueError` if a package of an extra is not installed."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(f'{package} is not installed; run pip install "hf_sparse[{extra}]"') from error


@contextmanager
def quiet_root() -> Iterator[None]:
    """Suppress the warnings that onnxruntime writes to the root logger."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    root.addFilter(_errors_alone)
    try:
        yield
    finally:
        root.removeFilter(_errors_alone)
        # Functions such as `logging.warning` add a handler to a root that has none.
        root.handlers[:] = handlers


def _errors_alone(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


BACKENDS: tuple[Backend, ...] = (
    Fuse(),
    Optimize(),
    PyTorch(),
    PyTorchInt8(),
    OnnxRuntime("float32"),
    OnnxRuntime("int8"),
    OpenVino("float32"),
    OpenVino("int8"),
)
# Differences of outputs are counted from this one.
REFERENCE = PyTorch.name


@dataclass(frozen=True, eq=False)
class Field:
    """The models that backends can run here, and by name the reasons why other backends cannot."""

    models: list[Prepared] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def output(self, name: str) -> Tensor:
        """Return the output of the model that one backend runs."""
        return next(model for model in self.models if model.name == name).call()


def prepare(job: Job, backends: Iterable[Backend] = BACKENDS) -> Field:
    """Prepare the model in every backend, and call it once, since some backends fail only then.

    Raises `ValueError` for quantized layers that were never calibrated.
    """
    found = Field()
    for backend in backends:
        try:
            model = backend.prepare(job)
            model.call()
        except backend.errors as error:
            found.missing[backend.name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:
            found.models.append(model)
    return found
