"""Tests and counts over large boolean and integer tensors.

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


def is_subset(part: Tensor, whole: Tensor) -> bool:
    """Say whether two boolean masks of one size are nested."""
    if part.device.type == "cpu":
        return not np.greater(part.numpy(), whole.numpy()).any()
    return not bool((part > whole).any())
