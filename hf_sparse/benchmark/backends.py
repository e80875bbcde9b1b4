"""The backends that a model is timed in.

To add one, write a subclass of `Backend` and add it to `BACKENDS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from hf_sparse.benchmark.eager import Fuse, Optimize, PyTorch, PyTorchInt8
from hf_sparse.benchmark.exported import OnnxRuntime, OpenVino
from hf_sparse.benchmark.inputs import Job
from hf_sparse.benchmark.latency import Backend, Prepared

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
