"""Check that all weights are finite; after training has diverged they are not."""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

_WAY_OUT = (
    "training has diverged; go on from the last checkpoint with a smaller learning rate, more warm-up or "
    "gradients clipped lower, and look at the data if it happens again"
)


def require_finite_weights(model: nn.Module) -> None:
    """Raise `RuntimeError` if a weight of a model in training is infinite or NaN."""
    if (name := not_finite(model)) is not None:
        raise RuntimeError(f"{name} holds NaN or infinite weights: {_WAY_OUT}")


def not_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter with an infinite or NaN entry, None if all are finite."""
    # Under ZeRO-3 a parameter is empty, and this process' part of it beside it.
    parts = {name: getattr(value, "ds_tensor", value) for name, value in model.named_parameters()}
    held = {name: value.detach() for name, value in parts.items() if _may_be_infinite(value)}
    # One norm over all: a norm of each would wait for the device as often. Sharded tensors cannot join it.
    plain = [value for value in held.values() if type(value) is Tensor]
    if plain and get_total_norm(plain, torch.inf, foreach=False).isfinite():
        held = {name: value for name, value in held.items() if type(value) is not Tensor}
    return next((name for name, value in held.items() if not _is_finite(value)), None)


def _is_finite(values: Tensor) -> bool:
    # One pass without a temporary, unlike isfinite.
    return bool(torch.linalg.vector_norm(values, torch.inf).isfinite())


def _may_be_infinite(values: Tensor) -> bool:
    # Frozen tensors of other classes, such as a base quantized by other software, cannot diverge.
    if type(values) not in (Tensor, nn.Parameter) and not values.requires_grad:
        return False
    # One-byte floats lack infinities, and a tensor on the meta device holds no values.
    return bool(values.is_floating_point() and values.itemsize > 1 and not values.is_meta and values.numel())
