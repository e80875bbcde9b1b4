"""Drop-in replacements for the Trainers of transformers, and the mixin for all others."""

from transformers import Seq2SeqTrainer, Trainer

from hf_sparse.training.hub import PushMixin
from hf_sparse.training.mixin import SparseTrainingMixin


class SparseTrainerMixin(PushMixin, SparseTrainingMixin):
    """Train any Trainer by a recipe: `class Mine(SparseTrainerMixin, TheirTrainer)`.

    The run is pruned, distilled and quantized as the recipe asks; its checkpoints are whole or absent and
    hold what an exact resume needs; `push_to_hub` uploads a model that stock transformers loads, with a card
    of what was measured. With an empty recipe it trains exactly like the base Trainer.

    Args:
        *args: Arguments of the base Trainer, such as the model.
        recipe: What to do to the model. None, or an empty recipe, does nothing, except that the zeros of a
            model that is sparse already are kept.
        teacher: The model to distil from, which reads the same inputs. It is frozen and put into evaluation
            mode, and neither saved nor optimized. Needed if the recipe has distillation with
            `teacher: given`, refused otherwise.
        allow_schedule_change: Let a resumed run have another schedule, another length or other training
            arguments than the run that wrote the checkpoint. Sparsity never falls.
        **kwargs: Keyword arguments of the base Trainer.

    Attributes:
        recipe: The recipe that the run follows, which may lock zeros that the given one does not mention.
        facts: What only the caller knows about the run, such as its `dataset`, by name; the run record and
            the card show it.
        sparsifier: Masks and schedule; None before training begins, or without sparsity.
        distiller: Teacher and loss terms; None without distillation.
        quantizer: Quantized layers; None without quantization.
        parts: What the recipe asks for, as `hf_sparse.training.parts.part.RunPart`s.

    Raises:
        TypeError: `recipe` is not a `Recipe`, or `teacher` is not a model.
        ValueError: Recipe, model, teacher and training arguments do not fit each other.
    """


class SparseTrainer(SparseTrainerMixin, Trainer):
    """A `Trainer` that prunes, distils and quantizes by a recipe.

    Args:
        *args: Arguments of `Trainer`, such as the model.
        recipe, teacher, allow_schedule_change: As in `SparseTrainerMixin`.
        **kwargs: Keyword arguments of `Trainer`.

    Raises:
        TypeError, ValueError: As in `SparseTrainerMixin`.
    """


class SparseSeq2SeqTrainer(SparseTrainerMixin, Seq2SeqTrainer):
    """A `Seq2SeqTrainer` that prunes, distils and quantizes by a recipe; it can score generated texts.

    Args:
        *args: Arguments of `Seq2SeqTrainer`, such as the model.
        recipe, teacher, allow_schedule_change: As in `SparseTrainerMixin`.
        **kwargs: Keyword arguments of `Seq2SeqTrainer`.

    Raises:
        TypeError, ValueError: As in `SparseTrainerMixin`.
    """
