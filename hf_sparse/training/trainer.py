"""The Trainer to write in place of `transformers.Trainer`."""

from transformers import Trainer

from hf_sparse.training.mixin import SparseTrainerMixin


class SparseTrainer(SparseTrainerMixin, Trainer):
    """A Trainer that prunes and distils by a `Recipe`; see `SparseTrainerMixin` for its arguments."""
