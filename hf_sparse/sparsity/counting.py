"""Comparisons and counts over large boolean and integer tensors.

On a CPU numpy does them: torch's comparisons with a constant and its reductions of booleans take 20 times
longer.
"""

import numpy as np
import torch
from torch import Tensor


def count_nonzero(values: Tensor) -> int:
    """Count the entries that are not zero."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return int(np.count_nonzero(values.detach().numpy()))
    return int(torch.count_nonzero(values))


def nonzero(values: Tensor) -> Tensor:
    """Return as booleans which entries are not zero."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return torch.from_numpy(values.detach().numpy() != 0)
    return values != 0


def negate(values: Tensor, out: Tensor) -> None:
    """Write the negatives of numbers into a tensor of the same shape and type."""
    if values.device.type == "cpu":
        np.negative(values.numpy(), out=out.numpy())
    else:
        torch.neg(values, out=out)


def any_greater(one: Tensor, other: Tensor) -> bool:
    """Say whether any number exceeds the one at its place in the other tensor."""
    if one.device.type == "cpu":
        return bool(np.greater(one.numpy(), other.numpy()).any())
    return bool((one > other).any())
