"""Make any model ready to run: its sparse or quantized Linears become layers of the kernels."""

import logging
from collections.abc import Mapping
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse.modules import pretrained_parts
from hf_sparse.quantization.bypass import bypassed
from hf_sparse.quantization.quantized_layers import QuantizedLayer, require_finite_tensors
from hf_sparse.runtime.autotune import pack_layer
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.integer_layer import as_integers, is_compressed, quantized_linears
from hf_sparse.runtime.linear import RuntimeLinear, forbid_saving

logger = logging.getLogger(__name__)

# A plain Linear with a smaller share of zeros was hardly pruned, and stays as it is.
SPARSE = 0.5

Model = TypeVar("Model", bound=nn.Module)


def optimize(model: Model) -> Model:
    """Replace the sparse or quantized Linears of a model, in place, by layers of the kernels; return it.

    Quantized layers compute with their codes and ranges. Plain ones with at least half of their weights zero
    are rounded now: weights to int8 per output, inputs to 8 bits per token. All else stays in PyTorch, with a
    warning that names layers which the kernels cannot compute. `forward` and its outputs stay the same,
    hidden states and attentions included.

    Without a C++ compiler the model stays in PyTorch, after one warning.

    Args:
        model: Any model of transformers on the CPU, or a `SentenceTransformer` or `CrossEncoder` with one
            inside. Save it before: the optimized model cannot be saved or trained.

    Returns:
        The same model, in evaluation mode and without gradients.

    Raises:
        ValueError: The model is not on the CPU, or weights are not finite.
    """
    inner = transformers_model(model)
    require_cpu(inner)
    require_finite_tensors(inner.named_parameters())
    model.eval().requires_grad_(False)
    _replace_linears(inner)
    return model


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """Return a model of transformers, or the one inside a model of sentence-transformers."""
    found = list(pretrained_parts(model))
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} holds {len(found)} models of transformers, and exactly one can be made "
            "ready to run; call the function for each of those that it holds"
        )
    return found[0]


def _replace_linears(model: PreTrainedModel) -> None:
    kernels = load_kernels()
    if kernels is None:
        return
    layers, left = quantized_linears(model), list[tuple[str, object]]()
    made: dict[nn.Module, RuntimeLinear] = {}
    past = bypassed(model)
    # A layer that is used in several places has as many names.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in made and replaceable(module, layers):
            if module in past:
                left.append((name, past[module]))
                continue
            try:
                packed = pack_layer(kernels, as_integers(name, module, layers), model.can_generate())
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
        forbid_saving(model)


def require_cpu(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model that is not on the CPU."""
    if model.device.type != "cpu":
        raise ValueError(
            f"the model is on {model.device}, and the kernels run on the CPU; call model.to('cpu') first"
        )


def replaceable(module: nn.Module, layers: Mapping[nn.Module, QuantizedLayer]) -> bool:
    """Return whether a module is a Linear that was quantized, or whose weights are at least half zeros."""
    if module in layers or is_compressed(module):
        return True
    if not isinstance(module, nn.Linear | Conv1D) or type(module) not in (nn.Linear, Conv1D):
        return False
    size = module.weight.numel()
    return size > 0 and module.weight.count_nonzero().item() <= (1 - SPARSE) * size


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with this name."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
