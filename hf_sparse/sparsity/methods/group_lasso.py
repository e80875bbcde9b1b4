"""Pruning of groups made small by a reweighted group Lasso (Li et al. 2020, arXiv:2009.08065)."""

import numpy as np
import torch

from hf_sparse.sparsity.methods.method import Method
from hf_sparse.sparsity.patterns.block import Array


def squared(weight: Array, out: Array | None = None) -> Array:
    """Score a weight by its square: summed over a group, these rank groups by their norm."""
    return (np.square if isinstance(weight, np.ndarray) else torch.square)(weight, out=out)


group_lasso = Method(score=squared, penalized=True)
