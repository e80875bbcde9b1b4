"""What the Trainers of this package do beyond training."""

from hf_sparse.training.mixin import SparseTrainingMixin


class SparseTrainerMixin(SparseTrainingMixin):
    """Prunes, distils, quantizes by a recipe in any Trainer: `class Mine(SparseTrainerMixin, Theirs)`."""
