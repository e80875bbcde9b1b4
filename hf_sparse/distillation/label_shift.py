"""Whether a model's own loss compares each output with the next label."""

from inspect import unwrap

from torch import nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from hf_sparse.distillation.unwrap import transformer_in


def shifts_labels(model: nn.Module) -> bool:
    """Say whether the loss of a model leaves out the first label, which nothing before it predicts.

    A causal one does where its forward pass uses the loss function that transformers chose for it. Some
    causal models (BART's decoder, XLNet) take cross entropy as it is: they want labels that are shifted.
    Encoder-decoders shift what the decoder reads instead.
    """
    inner = transformer_in(model)
    if inner is None or inner.config.is_encoder_decoder or not _uses_loss_function(type(inner)):
        return False
    used = inner.loss_function
    # One of the user's own takes the place of the one that the type of the loss names.
    return (used if used in LOSS_MAPPING.values() else LOSS_MAPPING.get(inner.loss_type)) is ForCausalLMLoss


def _uses_loss_function(kind: type[PreTrainedModel]) -> bool:
    """Look into the forward pass of the class of transformers that a class derives from, or into its own."""
    theirs = (
        ancestor
        for ancestor in kind.__mro__
        if ancestor.__module__.startswith("transformers.") and "forward" in vars(ancestor)
    )
    return "loss_function" in unwrap(next(theirs, kind).forward).__code__.co_names
