"""The model inside what adapters, the compiler and data parallelism put around it."""

from accelerate.utils import is_compiled_module
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from hf_sparse.distillation.base_teacher import BaseAsTeacher
from hf_sparse.modules import pretrained_parts

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model whose class says what is taken, given and learned.

    PEFT's models, compiled ones and those of data parallelism pass on whatever they are given, so their own
    class and the signature of their forward pass say nothing.
    """
    inner = _inner(model)
    return model if inner is model else unwrapped(inner)


def transformer_in(model: nn.Module) -> PreTrainedModel | None:
    """Return the model of transformers that a module is or is built around; None unless there is just one."""
    found = list(pretrained_parts(unwrapped(model)))
    return found[0] if len(found) == 1 else None


def _inner(model: nn.Module) -> nn.Module:
    if is_compiled_module(model):
        return model._orig_mod
    if isinstance(model, BaseAsTeacher):
        return model.watched
    return model.module if isinstance(model, _PARALLEL) else unwrap_peft_model(model)
