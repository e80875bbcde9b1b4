"""Training by a recipe."""

from hf_sparse.renamed import renamed_module

renamed_module("hf_sparse.training.loading", {"load_trained": "hf_sparse.load_model"})
