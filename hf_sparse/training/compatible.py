"""Whether the arguments of a run go together with its recipe."""

from typing import TYPE_CHECKING

from hf_sparse.sparsity.methods import METHODS
from hf_sparse.training.callbacks import AUTO_BATCH_SIZE
from hf_sparse.training.laying_out import check_targets
from hf_sparse.training.rewind import check_rewindable

if TYPE_CHECKING:
    from hf_sparse.training.mixin import SparseTrainingMixin


def check_arguments(trainer: "SparseTrainingMixin") -> None:
    """Raise `ValueError` where recipe, model and training arguments of a trainer do not go together."""
    sparsity, args = trainer.recipe.sparsity, trainer.args
    if sparsity is None and trainer.quantizer is None:
        return
    if args.auto_find_batch_size:
        raise ValueError(AUTO_BATCH_SIZE)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "pruning or quantizing under FSDP or DeepSpeed is not supported; run with DDP, which "
            "torchrun does by default"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"pruning or quantizing on {args.n_gpu} GPUs in one process (DataParallel) is not "
            "supported; start a process for each GPU with torchrun, or set CUDA_VISIBLE_DEVICES to one"
        )
    if trainer.quantizer is not None and args.max_steps > 0:
        trainer.recipe.quantization.resolve(args.max_steps)
    if sparsity is None:
        return
    check_targets(sparsity, trainer.model)
    if sparsity.lr_rewind:
        check_rewindable(args.lr_scheduler_type)
    if METHODS[sparsity.method].learned and trainer.lr_scheduler is not None:
        raise ValueError(
            f"the scores of method {sparsity.method} join the optimizer when training begins, and the "
            "scheduler passed in optimizers= was made before; pass the optimizer alone"
        )
    if sparsity.schedule is not None and args.max_steps > 0:
        sparsity.schedule.resolve(args.max_steps)
