"""The pruning methods that a recipe can name."""

from hf_sparse.sparsity.methods.group_lasso import group_lasso
from hf_sparse.sparsity.methods.magnitude import magnitude
from hf_sparse.sparsity.methods.method import Method
from hf_sparse.sparsity.methods.movement import movement, soft_movement

METHODS: dict[str, Method] = {
    "magnitude": magnitude,
    "movement": movement,
    "soft_movement": soft_movement,
    "group_lasso": group_lasso,
    # Pattern lock: zeros stay zeros while the rest is trained (Zafrir et al. 2021, arXiv:2111.05754).
    "lock": Method(),
}
