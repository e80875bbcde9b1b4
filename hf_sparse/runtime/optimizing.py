"""Making any model ready to run: its sparse or quantized Linears become layers of the kernels."""

import logging
from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse.quantization.bypassed import bypassed
from hf_sparse.quantization.layers import QuantizedLayer
from hf_sparse.runtime.choosing import pack_layer
from hf_sparse.runtime.compressed import compressed_layer, is_compressed
from hf_sparse.runtime.integers import IntegerLayer, integer_layer, quantized
from hf_sparse.runtime.library import load_kernels
from hf_sparse.runtime.linear import RuntimeLinear, refuse_saving

logger = logging.getLogger(__name__)

# Below this share of zeros a plain Linear was hardly pruned, and is not rounded unasked.
SPARSE = 0.5


def optimize(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the sparse or quantized Linears of a model, in place, by layers of the kernels; return it.

    Quantized layers compute with their codes and ranges. Plain ones with at least half of their weights zero
    are rounded now: weights to int8 for each output, inputs to 8 bits for each token. All else stays in
    PyTorch, and so do layers that the kernels do not know, which a warning names. `forward` and its outputs
    are the same, hidden states and attentions included.

    The model is in evaluation mode afterwards, without gradients, and cannot be saved: save it before.
    Without a C++ compiler it stays as it is, after one warning. Raises `ValueError` for models that are not
    on the CPU.
    """
    require_cpu(model)
    kernels = load_kernels()
    layers, left = quantized(model), []
    model.eval().requires_grad_(False)
    if kernels is None:
        return model
    made: dict[nn.Module, RuntimeLinear] = {}
    past = bypassed(model)
    # A layer that is used in several places has as many names.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in made and replaceable(module, layers):
            if module in past:
                left.append((name, past[module]))
                continue
            try:
                packed = pack_layer(kernels, integers_of(name, module, layers))
            except ValueError as error:
                left.append((name, error))
                continue
            made[module] = RuntimeLinear(kernels, packed)
        if module in made:
            replace(model, name, made[module])
    if left:
        name, reason = left[0]
        logger.warning("%d layers stay in PyTorch, such as %s: %s", len(left), name, reason)
    if made:
        model.save_pretrained = refuse_saving
    return model


def require_cpu(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model that is not on the CPU."""
    if model.device.type != "cpu":
        raise ValueError(
            f"the model is on {model.device}, and the kernels run on the CPU; call model.to('cpu') first"
        )


def replaceable(module: nn.Module, layers: Mapping[nn.Module, QuantizedLayer]) -> bool:
    """Say whether a module is a Linear that was quantized, or pruned to half or more."""
    if module in layers or is_compressed(module):
        return True
    if type(module) not in (nn.Linear, Conv1D) or not module.weight.numel():
        return False
    return module.weight.count_nonzero().item() <= (1 - SPARSE) * module.weight.numel()


def integers_of(name: str, module: nn.Module, layers: Mapping[nn.Module, QuantizedLayer]) -> IntegerLayer:
    """Return a Linear as integers, however it was quantized; raises as `integer_layer` does."""
    if is_compressed(module):
        return compressed_layer(name, module)
    return integer_layer(name, module, layers.get(module))


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with this name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
