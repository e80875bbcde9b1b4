"""The engine that trains one model over several processes: what of it is supported, and what they share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, StateDictType
from torch.distributed.tensor import DTensor, Replicate, Shard

from hf_sparse.training.host import Host

T = TypeVar("T")


def is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 shards a model, or a part of it."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def local_part(values: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: all of it unless it is sharded."""
    return values.to_local() if isinstance(values, DTensor) else values


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
            f"{doing} under FSDP version {plugin.fsdp_version} is not supported, since it lays many weights into "
            "one flat parameter; set version: 2 in fsdp_config, or run with DDP"
        )
    own: Any = getattr(getattr(model, "config", None), "distributed_config", None)
    offloaded = plugin is not None and isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    if offloaded or getattr(own, "fsdp_cpu_offload", False):
        raise ValueError(
            f"{doing} with weights that FSDP offloads to the CPU is not supported, since processes compare "
            "them by collectives of the device; set cpu_offload to false and shard over more processes"
        )
    require_data_parallel(state, model, doing)


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
        if isinstance(parameter, DTensor) and not _by_rows(parameter):
            raise ValueError(
                f"{doing} a model whose {name} is placed as {parameter.placements} is not supported: only "
                "whole rows may be shared out; shard by FSDP2 alone"
            )


def _by_rows(values: DTensor) -> bool:
    shards = [place for place in values.placements if not isinstance(place, Replicate)]
    return len(shards) <= 1 and all(type(place) is Shard and place.dim == 0 for place in shards)


def give_back_whole(model: nn.Module) -> None:
    """Return every weight to its shards: FSDP2 leaves some whole after a forward pass without gradients."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


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
    if trainer.accelerator.is_main_process:
        try:
            found[0] = decide()
        except ValueError as error:
            found[1] = f"{error}"
    broadcast_object_list(found)
    if found[1] is not None:
        raise ValueError(found[1])
    return found[0]


def fill_from_first(model: nn.Module, device: torch.device) -> None:
    """Give every process the tensors that the first one has of a model, which others hold on meta."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, values in held.items():
                if values is not None and values.is_meta:
                    empty = torch.empty_like(values, device=device)
                    grad = values.requires_grad
                    held[name] = nn.Parameter(empty, grad) if held is module._parameters else empty
    model.to(device)
    # Tied weights that were made anew are tied again.
    getattr(model, "tie_weights", lambda: None)()
    for values in model.state_dict().values():
        torch.distributed.broadcast(values.detach(), 0)
