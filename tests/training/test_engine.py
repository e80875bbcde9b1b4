"""Ways to share out a model that are refused, each with its reason and the way out."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from hf_sparse.shards import reshard
from hf_sparse.training.engine import is_sharded, require_data_parallel, require_sharded_by_rows
from hf_sparse.training.finite import not_finite
from tests.support.tiny import bert


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def plugin(**settings: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"fsdp_version": 2, "cpu_offload": OffloadPolicy()} | settings))


def state(**settings: Any) -> Any:
    return SimpleNamespace(**({"fsdp_plugin": plugin(), "parallelism_config": None} | settings))


def configured(**settings: Any) -> nn.Module:
    model = bert()
    model.config.distributed_config = SimpleNamespace(**settings)
    return model


def test_fsdp2_by_rows_is_accepted() -> None:
    require_sharded_by_rows(state(), bert())
    require_sharded_by_rows(
        state(fsdp_plugin=None), configured(tp_size=None, fsdp_size=4, dp_replicate_size=2)
    )
    shared = SimpleNamespace(tp_size=1, cp_size=1, dp_shard_size=4, dp_replicate_size=2)
    require_sharded_by_rows(state(parallelism_config=shared), bert())


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        (state(fsdp_plugin=plugin(fsdp_version=1)), {}, "FSDP version 1 .*set version: 2 in fsdp_config"),
        (state(fsdp_plugin=plugin(cpu_offload=CPUOffloadPolicy())), {}, "set cpu_offload to false"),
        (state(), {"fsdp_cpu_offload": True}, "set cpu_offload to false"),
        (state(), {"tp_size": 2}, "tp_size=2 in distributed_config .*set tp_size to 1"),
        (state(), {"ep_size": 4}, "ep_size=4 in distributed_config"),
        (state(parallelism_config=SimpleNamespace(tp_size=2)), {}, "tp_size=2 in parallelism_config"),
        (state(parallelism_config=SimpleNamespace(cp_size=2)), {}, "cp_size=2 in parallelism_config"),
    ],
)
def test_other_ways_are_refused(given: Any, model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_sharded_by_rows(given, configured(**model))


@pytest.mark.parametrize(("place", "fits"), [(Replicate(), True), (Shard(0), True), (Shard(1), False)])
def test_only_whole_rows_are_shared_out(place: Any, fits: bool, mesh: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh, [place]))
    if fits:
        require_data_parallel(state(), model, "pruning")
        return
    with pytest.raises(ValueError, match=r"pruning a model whose 0.weight is placed as \(Shard\(dim=1\),\)"):
        require_data_parallel(state(), model, "pruning")


def test_weights_are_sharded_again_after_an_evaluation(mesh: Any) -> None:
    model = fully_shard(nn.Sequential(nn.Linear(4, 4)), mesh=mesh)
    assert is_sharded(model) and not is_sharded(nn.Linear(4, 4))
    with torch.no_grad():
        model(torch.zeros(1, 4))
    # Weights would be changed in vain: the shards overwrite them before the next forward pass.
    assert not hasattr(model[0].weight, "placements")
    reshard(model)
    assert model[0].weight.placements == (Shard(0),)


def test_infinite_weights_are_found_in_shards(mesh: Any) -> None:
    model = fully_shard(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), mesh=mesh)
    assert not_finite(model) is None
    model[1].bias.to_local().data[1] = torch.nan
    assert not_finite(model) == "1.bias"
