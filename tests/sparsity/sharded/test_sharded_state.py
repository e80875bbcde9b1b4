"""What belongs to masks on several processes: optimizer state, checkpoints, records, counts, agreement."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from hf_sparse.checkpoint.sparsity_record import lost_zeros, write_sparsity_record
from hf_sparse.savable import require_own_weights
from hf_sparse.shards import reshard
from hf_sparse.sparsity.evidence import pruned_weights
from hf_sparse.sparsity.inspection import inspect_weights
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import choose, grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED, Block
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.revival import RememberedWeights
from hf_sparse.sparsity.sharded.weights import whole_weight
from hf_sparse.targets import find_targets
from hf_sparse.training.checkpoints.agreement import require_same_masks
from tests.support.shared import Check, divide, layered, run_together, wholes

SHAPES = [(16, 16), (10, 16), (1, 8), (16, 8, -1), (3, 8, 16, 0), (5, 16, 8, 1)]


def pair(mesh: DeviceMesh) -> tuple[nn.Module, nn.Module]:
    """Return a model whole and divided."""
    return layered(*SHAPES), divide(layered(*SHAPES), mesh)


def pruned(model: nn.Module, pattern: str = "unstructured") -> Masks:
    masks = Masks(find_targets(model))
    layout = Layout(masks.targets, parse_pattern(pattern))
    grow(masks, layout.budgets(lambda final: 0.5), absolute, layout.blocks)
    masks.apply_to_weights()
    return masks


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stored(mesh: DeviceMesh) -> None:
    whole, shared = pair(mesh)
    masks, other = pruned(whole), pruned(shared)
    packed = masks.pack()
    assert equal(packed, other.pack()) and equal(wholes(whole), wholes(shared))
    fresh = Masks(find_targets(shared))
    fresh.unpack(packed)
    assert fresh.digest() == masks.digest() and fresh.sparsity == masks.sparsity
    assert [fresh.removed(name) for name in packed] == [masks.removed(name) for name in packed]
    assert fresh.nonzero_removed() == {}
    with pytest.raises(ValueError, match="is not one of"):
        fresh.unpack({name: values[:1] for name, values in packed.items()})
    for target in masks.targets:
        target.weight.detach()[-1] = 3.0
    for target in other.targets:
        part = target.part
        assert part is not None
        changed = whole_weight(target).clone()
        changed[-1] = 3.0
        target.weight.detach().copy_(part.cut(changed))
    assert other.nonzero_removed() == masks.nonzero_removed() != {}


def optimized(mesh: DeviceMesh) -> None:
    models, states = pair(mesh), []
    for model in models:
        for parameter in model.parameters():
            torch.manual_seed(parameter.numel())
            gradient = torch.randn(parameter.shape)
            shared = isinstance(parameter, DTensor)
            parameter.grad = distribute_tensor(gradient, mesh, parameter.placements) if shared else gradient
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.step()
        masks = pruned(model)
        masks.apply_to_gradients()
        masks.apply_to_optimizer(optimizer)
        kept = [optimizer.state[target.parameter]["exp_avg"] for target in masks.targets]
        kept += [target.parameter.grad for target in masks.targets]
        states.append([value.full_tensor() if isinstance(value, DTensor) else value for value in kept])
    assert all(map(torch.equal, *states)) and any((value == 0).any() for value in states[1])


def remembered(mesh: DeviceMesh) -> None:
    found = []
    for model in pair(mesh):
        masks = Masks(find_targets(model))
        layout, memory = Layout(masks.targets, UNSTRUCTURED), RememberedWeights(masks)
        for sparsity in (0.3, 0.6):
            memory.restore()
            budgets = layout.budgets(lambda final, now=sparsity: now)
            choose(masks, budgets, absolute, layout.blocks)
            memory.withdraw()
        found.append((masks, memory, memory.pack()))
    (_, _, packed), (masks, memory, own) = found
    assert equal(packed, own) if mesh.get_rank() == 0 else own == {}
    assert any(values.any() for values in packed.values())
    again = RememberedWeights(masks)
    again.unpack(packed)
    assert all(torch.equal(again.whole(target), memory.whole(target)) for target in masks.targets)
    with pytest.raises(ValueError, match="remembered values"):
        again.unpack({name: values[1:] for name, values in packed.items()})


def recognized(mesh: DeviceMesh) -> None:
    whole, shared = pair(mesh)
    for model in (whole, shared):
        pruned(model, "1x8")
    measured = [measure_sparsity(model) for model in (whole, shared)]
    assert measured[0] == measured[1] and measured[0].overall > 0.4
    seen = [inspect_weights(find_targets(model)) for model in (whole, shared)]
    assert seen[0] == seen[1]
    names = [pruned_weights(find_targets(model)) for model in (whole, shared)]
    assert names[0] == names[1] != ()
    locked = []
    for model in (whole, shared):
        masks = Masks(find_targets(model))
        blocks = [
            Block(1, 8) if shape[1] % 8 == 0 else UNSTRUCTURED for shape in masks.targets.shapes.values()
        ]
        masks.lock_zeros(dict(zip(masks.targets.names, blocks, strict=True)))
        locked.append((masks.digest(), masks.sparsity))
    assert locked[0] == locked[1]


def recorded(mesh: DeviceMesh) -> None:
    records = []
    for model in pair(mesh):
        model.config = SimpleNamespace()
        masks = pruned(model)
        layers = dict.fromkeys(masks.targets.names, ("unstructured", 0.5))
        write_sparsity_record(model, masks, "unstructured", 0.5, layers)
        records.append(model.config.hf_sparse)
        assert lost_zeros(model) == {}
        masks.targets.found[0].weight.detach().fill_(1.0)
        assert list(lost_zeros(model)) == [masks.targets.names[0]]
    assert records[0] == records[1]


def agreed(mesh: DeviceMesh) -> None:
    whole, shared = pair(mesh)
    require_same_masks(pruned(shared))
    masks = pruned(whole)
    require_same_masks(masks)
    name, last = masks.targets.names[1], mesh.size() - 1
    if mesh.get_rank() == last:
        masks.set(name, ~masks[name])
    with pytest.raises(RuntimeError, match=f"the mask of {name} differs between processes: rank"):
        require_same_masks(masks)
    fewer = layered(*SHAPES[: 2 if mesh.get_rank() == last else 3])
    with pytest.raises(RuntimeError, match="processes prune other weights"):
        require_same_masks(pruned(fewer))


def refused(mesh: DeviceMesh) -> None:
    model = layered((16, 16), (16, 8))
    layer = model.layers[1]
    layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(1)]))
    targets = find_targets(model)
    assert targets.names == ["layers.0.weight"]
    with pytest.raises(ValueError, match=r"layers\.1 .*placements \(Shard\(dim=1\),\).*sparsity\.exclude"):
        require_own_weights(targets, "sparsity")


def resharded(mesh: DeviceMesh) -> None:
    model = divide(nn.Sequential(nn.Linear(8, 8)), mesh)
    with torch.no_grad():
        model(torch.ones(1, 8))
    assert not isinstance(model[0].weight, DTensor)
    reshard(model)
    assert isinstance(model[0].weight, DTensor)
    reshard(nn.Linear(2, 2))


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (stored, optimized, remembered, recognized, recorded, agreed, refused, resharded)
}


def replicated(mesh: DeviceMesh) -> None:
    whole, shared = pair(mesh)
    masks, other = pruned(whole, "unstructured"), pruned(shared, "unstructured")
    assert masks.digest() == other.digest() and equal(masks.pack(), other.pack())
    require_same_masks(other)
    name = masks.targets.names[0]
    if mesh.get_rank() == 3:
        other.set(name, torch.zeros_like(other[name]))
    with pytest.raises(RuntimeError, match=f"the mask of {name} differs between processes: rank"):
        require_same_masks(other)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run_together(CHECKS, (2,), tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("check", CHECKS)
def test_processes_share_what_one_has(check: str, errors: dict[str, list[str]]) -> None:
    assert errors[check] == [], errors[check][0]


def test_replicas_of_shards_agree(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("replicas")
    found = run_together({"replicated": replicated}, (2, 2), folder)
    assert found["replicated"] == [], found["replicated"][0]
