"""Adapters of peft across what `Trainer` does to them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from hf_sparse.targets import Targets

logger = logging.getLogger(__name__)


@contextmanager
def same_adapters(model: nn.Module, checkpoint: str) -> Iterator[None]:
    """Keep which adapters are active and which weights train while a checkpoint is loaded.

    `Trainer` leaves the first of several active, and all of it trains. Raises `ValueError` for adapters of
    `model.add_adapter`, which it does not load.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "Trainer reads no checkpoint of a model whose adapter was put on by model.add_adapter; put it on "
            "by peft.get_peft_model, or load it by model.load_adapter(checkpoint) and train anew"
        )
    several = list(model.active_adapters) if hasattr(model, "disable_adapter") else []
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    yield
    beside = len(getattr(model, "peft_config", ())) > 1 and "default" in model.peft_config
    if several and beside and (Path(checkpoint) / "adapter_config.json").is_file():
        # Older transformers load those in folders alone, and pass over the one that has none.
        model.load_adapter(checkpoint, "default")
    if len(several) > 1:
        model.base_model.set_adapter(several)
    for parameter, flag in trains:
        parameter.requires_grad_(flag)


def warn_of_filling(model: nn.Module, targets: Targets) -> None:
    """Say so where adapters change removed weights of sparse `targets`, too, which merging then fills."""
    sparse = {id(target.module) for target in targets if not target.weight.all()}
    filling = [
        name
        for name, module in model.named_modules()
        # Masked adapters keep where their base has weights.
        if hasattr(module, "lora_A") and not hasattr(module, "kept") and id(module.base_layer) in sparse
    ]
    if filling:
        logger.warning(
            "%d adapters change removed weights too, such as that of %s: merged, they fill zeros of the "
            "base. SparseLoraConfig makes adapters that do not; merge_adapter(model, prune='again') cuts off "
            "that part.",
            len(filling),
            filling[0],
        )
