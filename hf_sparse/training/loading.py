"""The old home of `load_trained`, which `hf_sparse.load_model` replaces."""

import warnings

from transformers import PreTrainedModel

from hf_sparse.checkpoint.loading import load_model


def load_trained(name_or_path: str) -> PreTrainedModel:
    """Load a model as `hf_sparse.load_model` does."""
    warnings.warn(
        "hf_sparse.training.loading.load_trained is an old name; write hf_sparse.load_model",
        FutureWarning,
        stacklevel=2,
    )
    return load_model(name_or_path)
