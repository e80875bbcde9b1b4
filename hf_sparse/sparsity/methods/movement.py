"""Movement pruning: importance is learned (Sanh et al. 2020, arXiv:2005.07683)."""

from hf_sparse.sparsity.methods.method import Method

movement = Method(learned=True)
soft_movement = Method(learned=True, penalized=True)
