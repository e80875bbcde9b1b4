"""The engine that trains one model over several processes: what of it is supported, and what they share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from hf_sparse.shards import refused_placements
from hf_sparse.training.host import Host

T = TypeVar("T")


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 shards a model, or a part of it."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def every_process_saves(trainer: Host) -> bool:
    """Return whether every process takes part in saving, since each holds but a part of the weights."""
    return trainer.is_fsdp_enabled or is_sharded(trainer.model)


def require_sharded_by_rows(
    state: AcceleratorState, model: nn.Module, doing: str = "pruning or quantizing"
) -> None:
    """Raise `ValueError` if processes share out a model in another way than FSDP2 does, by whole rows.

    Args:
        state: The state of accelerate.
        model: The model, before or after it is sharded.
        doing: What is done to the model, for messages.
    """
    plugin = getattr(state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version != 2:
        raise ValueError(
            f"{doing} under FSDP version {plugin.fsdp_version} is not supported, since it lays many weights "
            "into one flat parameter; set version: 2 in fsdp_config, or run with DDP"
        )
    own: Any = getattr(getattr(model, "config", None), "distributed_config", None)
    if _offloads(plugin) or getattr(own, "fsdp_cpu_offload", False):
        raise ValueError(
            f"{doing} with weights that FSDP offloads to the CPU is not supported, since processes compare "
            "them by collectives of the device; set cpu_offload to false and shard over more processes"
        )
    require_data_parallel(state, model, doing)


def is_sharded_at_load(model: nn.Module) -> bool:
    """Return whether transformers sharded a model as it loaded it, into which it loads no weights later."""
    settings = getattr(getattr(model, "config", None), "distributed_config", None)
    return settings is not None and is_sharded(model)


def require_best_is_not_loaded(trainer: Host) -> None:
    """Raise `ValueError` if Trainer would load weights into a model that was sharded as it was loaded."""
    if trainer.args.load_best_model_at_end and is_sharded_at_load(trainer.model):
        raise ValueError(
            "load_best_model_at_end is set, and Trainer cannot load weights into a model that transformers "
            "sharded as it loaded it; leave it out, and after training load the best checkpoint by "
            "from_pretrained"
        )


def _offloads(plugin: Any) -> bool:
    if plugin is None:
        return False
    from torch.distributed.fsdp import CPUOffloadPolicy

    return isinstance(plugin.cpu_offload, CPUOffloadPolicy)


def require_data_parallel(state: AcceleratorState, model: nn.Module, doing: str) -> None:
    """Raise `ValueError` if processes share more than batches and whole rows of weights."""
    homes = {
        "parallelism_config": getattr(state, "parallelism_config", None),
        "distributed_config": getattr(getattr(model, "config", None), "distributed_config", None),
    }
    for home, settings in homes.items():
        for name in ("tp_size", "cp_size", "sp_size", "ep_size", "pp_size"):
            if (size := getattr(settings, name, 1) or 1) > 1:
                raise ValueError(
                    f"{doing} with {name}={size} in {home} is not supported: processes would share more than "
                    f"batches and rows of weights; set {name} to 1 and shard by FSDP2 alone"
                )
    for name, parameter in model.named_parameters():
        if (placements := refused_placements(parameter)) is not None:
            raise ValueError(
                f"{doing} a model whose {name} is placed as {placements} is not supported: only whole rows "
                "may be shared out; shard by FSDP2 alone"
            )


@contextmanager
def weights_together(trainer: Host, wanted: bool) -> Iterator[None]:
    """Let Trainer save a model as one set of plain weights, if `wanted`, whatever FSDP saves of it beside.

    With SHARDED_STATE_DICT Trainer saves shards alone, which neither `from_pretrained` nor anything else
    reads. The first process gathers the weights in its memory, one after the other.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None or not wanted:
        yield
        return
    from torch.distributed.fsdp import StateDictType

    asked = plugin.state_dict_type
    plugin.state_dict_type = StateDictType.FULL_STATE_DICT
    try:
        yield
    finally:
        plugin.state_dict_type = asked


def only_first_reads(trainer: Host) -> bool:
    """Return whether the first process alone has read the weights, which others get when they are sharded."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    return plugin is not None and bool(plugin.cpu_ram_efficient_loading) and not is_sharded(trainer.model)


def as_first_decides(trainer: Host, decide: Callable[[], T]) -> T:
    """Return what `decide` returns, of the first process where only that has the weights; raise its error."""
    if not only_first_reads(trainer):
        return decide()
    found: list[Any] = [None, None]
    failed: Exception | None = None
    if trainer.accelerator.is_main_process:
        try:
            found[0] = decide()
        except Exception as error:
            found[1], failed = f"{error}" or type(error).__name__, error
    broadcast_object_list(found)
    if failed is not None:
        raise failed
    if found[1] is not None:
        raise ValueError(found[1])
    return found[0]


def fill_from_first(model: nn.Module, device: torch.device) -> None:
    """Give every process the tensors that the first one has of a model, which others hold on meta."""
    for module in model.modules():
        # Both kinds of tensors, of which only some are on meta.
        for held in (module._parameters, module._buffers):
            for name, values in held.items():
                if values is not None and values.is_meta:
                    setattr(module, name, _empty_like(values, device))
    model.to(device)
    # Tied weights that were made anew are tied again.
    getattr(model, "tie_weights", lambda: None)()
    for values in model.state_dict().values():
        torch.distributed.broadcast(values.detach(), 0)


def _empty_like(values: Tensor, device: torch.device) -> Tensor:
    empty = torch.empty_like(values, device=device)
    return nn.Parameter(empty, values.requires_grad) if isinstance(values, nn.Parameter) else empty
