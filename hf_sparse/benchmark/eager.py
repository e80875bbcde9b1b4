"""This package's runtime and PyTorch as backends."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.benchmark.inputs import Job, shared_copy
from hf_sparse.benchmark.latency import Backend, Prepared
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.fused_encoder import FusedEncoder
from hf_sparse.runtime.fusion import fuse
from hf_sparse.runtime.integer_layer import quantized_linears
from hf_sparse.runtime.linear import RuntimeLinear
from hf_sparse.runtime.optimization import optimize


class Fuse(Backend):
    """The encoder as one kernel call."""

    name, own, errors = "hf_sparse fuse", True, (ValueError,)

    def prepare(self, job: Job) -> Prepared:
        """Fuse a copy of the model; raise `ValueError` if its architecture or scheme is not supported."""
        _require_kernels()
        note = "" if job.quantized else "Weights and inputs of the encoder are rounded to 8 bits."
        return eager(self, fuse(shared_copy(job.model)), job.inputs, note)


class Optimize(Backend):
    """Layers that are replaced one by one."""

    name, own, errors = "hf_sparse optimize", True, (ValueError,)

    def prepare(self, job: Job) -> Prepared:
        """Replace the layers of a copy; raise `ValueError` if none can be replaced."""
        _require_kernels()
        done = optimize(shared_copy(job.model))
        if not any(isinstance(module, RuntimeLinear) for module in done.modules()):
            raise ValueError("none of the model's layers is quantized in a supported scheme, or half zeros")
        left = len(quantized_linears(done))
        note = f"{left} quantized layers stay in PyTorch, simulated." if left else ""
        return eager(self, done, job.inputs, note)


class PyTorch(Backend):
    """The model without quantized layers, as it is."""

    name, errors = "PyTorch float32", ()

    def prepare(self, job: Job) -> Prepared:
        """Take the plain copy."""
        return eager(self, job.plain, job.inputs)


class PyTorchInt8(Backend):
    """PyTorch's dynamic quantization of Linears."""

    name = "PyTorch int8 dynamic"

    def prepare(self, job: Job) -> Prepared:
        """Quantize a plain copy again."""
        with warnings.catch_warnings():
            # It is deprecated, and still what people compare with.
            warnings.simplefilter("ignore")
            rounded = torch.ao.quantization.quantize_dynamic(
                shared_copy(job.plain), {nn.Linear}, dtype=torch.qint8, inplace=True
            )
        return eager(self, rounded, job.inputs, "Linears rounded again, with one scale for a weight.")


def eager(backend: Backend, model: PreTrainedModel, inputs: Mapping[str, Tensor], note: str = "") -> Prepared:
    """Return a PyTorch model as a backend runs it."""

    def call() -> Tensor:
        with torch.inference_mode():
            outputs = model(**inputs, return_dict=True)
        return next(value for value in outputs.values() if isinstance(value, Tensor))

    return Prepared(backend.name, backend.own, call, held_bytes(model), note)


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights as its modules hold them (packed, int8 or plain), each once."""
    held = {id(value): value.nbytes for value in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        if isinstance(module, FusedEncoder | RuntimeLinear):
            held[id(module)] = module.nbytes
        elif isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
            bias = module.bias()
            held[id(module)] = module.weight().nbytes + (0 if bias is None else bias.nbytes)
    return sum(held.values())


def _require_kernels() -> None:
    if load_kernels() is None:
        raise ValueError("its C++ is not compiled here: the compiler is missing, or HF_SPARSE_NATIVE is 0")
