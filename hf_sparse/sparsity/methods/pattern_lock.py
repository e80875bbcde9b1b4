"""Pattern lock: zeros stay zeros while the rest is trained (Zafrir et al. 2021, arXiv:2111.05754)."""

from hf_sparse.sparsity.methods.method import Method

pattern_lock = Method()
