"""The Trainers to write in place of those of transformers."""

from transformers import Seq2SeqTrainer, Trainer

from hf_sparse.trainers.publishing import SparseTrainerMixin


class SparseTrainer(SparseTrainerMixin, Trainer):
    """A Trainer that prunes, distils, quantizes by a `Recipe`; `SparseTrainerMixin` has its arguments."""


class SparseSeq2SeqTrainer(SparseTrainerMixin, Seq2SeqTrainer):
    """The same for encoder-decoders, with the metrics of generated texts of `Seq2SeqTrainer`."""
