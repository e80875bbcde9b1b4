"""Checks that several processes run together, with models whose weights FSDP2 divides among them."""

import os
import sys
import traceback
from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.pytorch_utils import Conv1D

from hf_sparse.sparsity.sharded.weights import whole_weight
from hf_sparse.targets import find_targets
from tests.support.doomed import cheap_processes

Check = Callable[[DeviceMesh], None]


class Experts(nn.Module):
    """A mixture's experts, one matrix each, as transformers stores them."""

    def __init__(self, count: int, rows: int, columns: int, transposed: bool) -> None:
        super().__init__()
        self.is_transposed = transposed
        self.matrices = nn.Parameter(torch.empty(count, rows, columns))


def layered(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model with one layer for each shape, random weights.

    A shape is (out, in) of a Linear; (out, in, -1) of a Conv1D; four numbers are those of experts, the last
    one whether they are transposed.
    """
    torch.manual_seed(seed)
    model = nn.Module()
    model.layers = nn.ModuleList(map(_layer, shapes))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.to(dtype)


def _layer(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 4:
        return Experts(*shape[:3], bool(shape[3]))
    return Conv1D(shape[0], shape[1]) if len(shape) == 3 else nn.Linear(shape[1], shape[0])


def divide(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide the weights of a model among processes."""
    return fully_shard(model, mesh=mesh)


def wholes(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole matrices of a model's targets."""
    return {target.name: whole_weight(target).clone() for target in find_targets(model)}


def run_together(checks: dict[str, Check], shape: tuple[int, ...], folder: Path) -> dict[str, list[str]]:
    """Run checks in a mesh of processes; return for each check the errors of the processes that failed it."""
    context, ranks = cheap_processes(), prod(shape)
    processes = [context.Process(target=_work, args=(checks, rank, shape, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if codes != [0] * ranks:
        raise RuntimeError(f"the processes ended with exit codes {codes}")
    found = [torch.load(folder / f"errors-{rank}.pt") for rank in range(ranks)]
    return {name: [errors[name] for errors in found if name in errors] for name in checks}


def _work(checks: dict[str, Check], rank: int, shape: tuple[int, ...], folder: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), prod(shape))
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=prod(shape))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    errors = {}
    for name, check in checks.items():
        try:
            check(mesh)
        except Exception:
            errors[name] = f"rank {rank}: {traceback.format_exc()}"
            print(errors[name], file=sys.stderr)  # one process out of step ends the others in another check
    torch.save(errors, folder / f"errors-{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
