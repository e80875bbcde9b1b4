"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878)."""

import numpy as np
import torch

from hf_sparse.sparsity.methods.method import Method
from hf_sparse.sparsity.patterns.block import Array


def absolute(weight: Array, out: Array | None = None) -> Array:
    """Score a weight by its absolute value."""
    return (np.absolute if isinstance(weight, np.ndarray) else torch.abs)(weight, out=out)


magnitude = Method(score=absolute)
