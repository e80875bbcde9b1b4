"""Weights that are numbers: a model whose weights are not has nothing to save, and nothing to go on with."""

import torch
from torch import Tensor, nn

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
    return next((name for name, value in model.named_parameters() if not _is_finite(value.detach())), None)


def _is_finite(values: Tensor) -> bool:
    # Numbers of one byte have other rules, and what is on no device has none.
    if not values.is_floating_point() or values.itemsize == 1 or values.is_meta or not values.numel():
        return True
    # In one pass and without a copy, unlike isfinite.
    return bool(torch.linalg.vector_norm(values, torch.inf).isfinite())
