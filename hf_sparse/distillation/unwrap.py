"""The model inside the wrappers of adapters, the compiler and data parallelism."""

from accelerate.utils import is_compiled_module
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from hf_sparse.distillation.base_teacher import BaseAsTeacher
from hf_sparse.modules import pretrained_parts

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the innermost model, whose class and forward signature describe inputs, outputs and loss.

    The wrappers of PEFT, the compiler and data parallelism accept any arguments and pass them on.
    """
    inner = _inner(model)
    return model if inner is model else unwrapped(inner)


def transformer_in(model: nn.Module) -> PreTrainedModel | None:
    """Return the transformers model that a module is or contains; None unless there is exactly one."""
    found = list(pretrained_parts(unwrapped(model)))
    return found[0] if len(found) == 1 else None


def _inner(model: nn.Module) -> nn.Module:
    if is_compiled_module(model):
        # Compiled modules hold the model under a name that their type does not declare.
        return model.get_submodule("_orig_mod")
    if isinstance(model, BaseAsTeacher):
        return model.watched
    return model.module if isinstance(model, _PARALLEL) else unwrap_peft_model(model)
