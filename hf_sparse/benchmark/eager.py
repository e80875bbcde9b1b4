"""This runtime and PyTorch as contenders."""

import copy
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.benchmark.field import Running
from hf_sparse.quantization.convert import detach
from hf_sparse.quantization.layers import quantized_layers
from hf_sparse.runtime.engine import FusedEncoder
from hf_sparse.runtime.fusing import fuse
from hf_sparse.runtime.integers import quantized_linears
from hf_sparse.runtime.library import load_kernels
from hf_sparse.runtime.linear import RuntimeLinear
from hf_sparse.runtime.optimizing import optimize


def plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy without quantized layers, whose weights are those that their codes stand for.

    All other parameters are shared.
    """
    layers = quantized_layers(model)
    copied = shared_copy(model)
    detach(copied)
    for name, layer in layers.items():
        weight = layer.weight()
        weight = (weight.t() if layer.transposed else weight).contiguous()
        copied.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    return copied


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model, in evaluation mode, that has the same parameters."""
    # `deepcopy` takes what its memo holds in place of a copy.
    memo: dict[int, object] = {id(parameter): parameter for parameter in model.parameters()}
    copied = copy.deepcopy(model, memo).eval()
    # Whoever computes one batch needs no keys and values later.
    copied.config.use_cache = False
    return copied


def fused(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Running:
    """Run the model with its encoder as one piece; raise `ValueError` where that cannot be."""
    _require_kernels()
    note = "" if quantized_layers(model) else "Weights and inputs of the encoder are rounded to 8 bits."
    return _running(fuse(shared_copy(model)), inputs, note)


def optimized(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Running:
    """Run the model layer by layer; raise `ValueError` where no layer is replaced."""
    _require_kernels()
    done = optimize(shared_copy(model))
    if not any(isinstance(module, RuntimeLinear) for module in done.modules()):
        raise ValueError("none of the model's layers is quantized in a way it knows, or half zeros")
    left = len(quantized_linears(done))
    return _running(done, inputs, f"{left} quantized layers stay in PyTorch, simulated." if left else "")


def torch_floats(plain: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Running:
    """Run a model that is not quantized as it is."""
    return _running(plain, inputs)


def torch_dynamic(plain: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Running:
    """Run a model that is not quantized with what PyTorch offers to make its Linears int8."""
    with warnings.catch_warnings():
        # It is deprecated, and still what people compare with.
        warnings.simplefilter("ignore")
        rounded = torch.ao.quantization.quantize_dynamic(
            shared_copy(plain), {nn.Linear}, dtype=torch.qint8, inplace=True
        )
    return _running(rounded, inputs, "Linears rounded anew, with one scale for a weight.")


def _require_kernels() -> None:
    if load_kernels() is None:
        raise ValueError("its C++ is not compiled here: there is no compiler, or HF_SPARSE_NATIVE is 0")


def _running(model: PreTrainedModel, inputs: Mapping[str, Tensor], note: str = "") -> Running:
    def call() -> Tensor:
        with torch.inference_mode():
            outputs = model(**inputs, return_dict=True)
        return next(value for value in outputs.values() if isinstance(value, Tensor))

    return Running(call, held_bytes(model), note)


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights, each once, as its modules hold them: packed, int8 or plain."""
    held = {id(value): value.nbytes for value in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        if isinstance(module, FusedEncoder):
            held[id(module)] = module.nbytes
        elif isinstance(module, RuntimeLinear):
            held[id(module)] = module.packed.nbytes
        elif isinstance(module, torch.ao.nn.quantized.dynamic.Linear):
            bias = module.bias()
            held[id(module)] = module.weight().nbytes + (0 if bias is None else bias.nbytes)
    return sum(held.values())
