"""Check that all weights are finite; after training has diverged they are not."""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from hf_sparse.shards import as_shared
from hf_sparse.training.engine import is_sharded

_WAY_OUT = (
    "training has diverged; go on from the last checkpoint with a smaller learning rate, more warm-up or "
    "gradients clipped lower, and look at the data if it happens again"
)


def require_finite_weights(model: nn.Module) -> None:
    """Raise `RuntimeError` if a weight of a model in training is infinite or NaN.

    Every process has to call it if the model is sharded; then it is raised on all.
    """
    if (name := not_finite(model)) is not None:
        raise RuntimeError(f"{name} holds NaN or infinite weights: {_WAY_OUT}")


def not_finite(model: nn.Module) -> str | None:
    """Return the name of the first parameter with an infinite or NaN entry, None if all are finite."""
    parameters = dict(model.named_parameters())
    own = {name: _own_part(value) for name, value in parameters.items() if _may_be_infinite(value)}
    # A shard may be empty.
    held = {name: value for name, value in own.items() if value.numel()}
    # One norm over all: a norm of each would wait for the device as often. Other tensors cannot join it.
    plain = [value for value in held.values() if type(value) is Tensor]
    if plain and get_total_norm(plain, torch.inf, foreach=False).isfinite():
        held = {name: value for name, value in held.items() if type(value) is not Tensor}
    found = next((name for name, value in held.items() if not _is_finite(value)), None)
    if not is_sharded(model):
        return found
    names = [*parameters, None]
    first = torch.tensor(names.index(found), device=next(iter(parameters.values())).device)
    torch.distributed.all_reduce(first, torch.distributed.ReduceOp.MIN)
    return names[int(first)]


def _own_part(parameter: Tensor) -> Tensor:
    """Return what this process holds of a parameter, which is beside an empty one under ZeRO-3."""
    values = getattr(parameter, "ds_tensor", parameter).detach()
    shared = as_shared(values)
    return values if shared is None else shared.to_local()


def _is_finite(values: Tensor) -> bool:
    # One pass without a temporary, unlike isfinite.
    return bool(torch.linalg.vector_norm(values, torch.inf).isfinite())


def _may_be_infinite(values: Tensor) -> bool:
    # Frozen tensors of other classes, such as a base quantized by other software, cannot diverge.
    if type(values) not in (Tensor, nn.Parameter) and not values.requires_grad:
        return False
    # One-byte floats lack infinities, and a tensor on the meta device holds no values.
    return bool(values.is_floating_point() and values.itemsize > 1 and not values.is_meta)
