"""Layers of compressed-tensors directories, as `from_pretrained` leaves them, as integers."""

import torch
from torch import Tensor, nn

from hf_sparse.runtime.integers import FIXED, RANGE, SYMMETRIC, IntegerLayer


def is_compressed(module: nn.Module) -> bool:
    """Say whether compressed-tensors made a Linear a quantized one."""
    scheme = getattr(module, "quantization_scheme", None)
    return isinstance(module, nn.Linear) and getattr(scheme, "weights", None) is not None


def compressed_layer(name: str, module: nn.Module) -> IntegerLayer:
    """Return such a module as integers; raise `ValueError` for formats that the kernels do not know.

    Its weight may be codes still, or floats after a first forward pass.
    """
    scheme, scales = module.quantization_scheme, getattr(module, "weight_scale", None)
    rows = module.out_features
    if scheme.weights.type != "int" or scheme.weights.num_bits > 8:
        raise ValueError(
            f"the weight of {name} has {scheme.weights.num_bits} bits of type {scheme.weights.type}, and the "
            "kernels know integers of 8 bits or less"
        )
    # Codes of fewer bits lie several in a number.
    if not isinstance(getattr(module, "weight", None), Tensor) or scales is None:
        raise ValueError(
            f"the codes of {name} lie several in a number; call the model once, which takes them apart, "
            "or save it as a packed directory"
        )
    if scales.numel() not in (1, rows) or getattr(scheme.weights, "symmetric", True) is False:
        raise ValueError(f"{name} has scales of {tuple(scales.shape)}, and the kernels have one for a row")
    steps = scales.detach().float().reshape(-1).expand(rows)
    weight = module.weight.detach()
    codes = weight if weight.dtype == torch.int8 else (weight.float() / steps[:, None]).round()
    return IntegerLayer(codes.to(torch.int8), steps, module.bias, *_input(name, module))


def _input(name: str, module: nn.Module) -> tuple[int, float, int]:
    arguments = module.quantization_scheme.input_activations
    if arguments is None:
        return RANGE, 1.0, 0
    if arguments.num_bits != 8 or arguments.type != "int":
        raise ValueError(
            f"inputs of {name} have {arguments.num_bits} bits of type {arguments.type}, and the kernels know "
            "integers of 8"
        )
    if arguments.dynamic and arguments.symmetric:
        return SYMMETRIC, 1.0, 0
    if arguments.dynamic or module.input_scale.numel() != 1:
        raise ValueError(f"inputs of {name} have grids that the kernels do not know: {arguments.strategy}")
    zero = getattr(module, "input_zero_point", None)
    # Codes are signed there.
    return FIXED, module.input_scale.item(), 128 + (0 if zero is None else int(zero.item()))
