"""Weights that are numbers: a model whose weights are not has nothing to save, and nothing to go on with."""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

_WAY_OUT = (
    "training has diverged; go on from the last checkpoint with a smaller learning rate, more warm-up or "
    "gradients clipped lower, and look at the data if it happens again"
)


def require_finite(model: nn.Module) -> None:
    """Raise `RuntimeError` if a weight of a model in training is infinite or no number."""
    if (name := not_finite(model)) is not None:
        raise RuntimeError(f"{name} holds weights that are no finite numbers: {_WAY_OUT}")


def not_finite(model: nn.Module) -> str | None:
    """Return the first parameter of a model that is not all finite numbers, None if all are."""
    held = {name: value.detach() for name, value in model.named_parameters() if _may_be_infinite(value)}
    # One answer for all: to ask for each would wait for the device as often. Sharded ones do not mix.
    plain = [value for value in held.values() if type(value) is Tensor]
    if plain and get_total_norm(plain, torch.inf, foreach=False).isfinite():
        held = {name: value for name, value in held.items() if type(value) is not Tensor}
    return next((name for name, value in held.items() if not _is_finite(value)), None)


def _is_finite(values: Tensor) -> bool:
    # In one pass and without a copy, unlike isfinite.
    return bool(torch.linalg.vector_norm(values, torch.inf).isfinite())


def _may_be_infinite(values: Tensor) -> bool:
    # Those of other kinds that do not train, such as a base that others have quantized, cannot diverge.
    if type(values) not in (Tensor, nn.Parameter) and not values.requires_grad:
        return False
    # Numbers of one byte have other rules, and what is on no device has none.
    return bool(values.is_floating_point() and values.itemsize > 1 and not values.is_meta and values.numel())
